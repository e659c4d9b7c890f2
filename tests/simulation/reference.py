"""A plain simulator of the same rules: Python objects, one event a step, nothing in closed form.

It shares no code with the kernel but the laws and the policies' own `decide`. Slow, and meant to be read.
"""

import math
from collections import Counter
from dataclasses import dataclass, field, replace

import numpy as np

from qmodel.policies import ClusterState, RequestView, as_policy
from qmodel.policies.state import UNAVAILABLE, largest_safe_chunk
from qmodel.policies.tables import lookup_curve, lookup_table


@dataclass(eq=False)
class Job:
    """A request on its way."""

    number: int
    arrival: float
    prompt: int
    output: int
    cached: int
    slo: object
    kind: int
    done: int = 0
    need: int = 0
    left: int = 0
    host_s: float = 0.0
    key: float = 0.0
    deflected: bool = False
    preempted: int = 0
    restarts: int = 0
    start: float = math.nan
    prefilled: float = math.nan
    landed: float = math.nan
    admitted: float = math.nan
    first: float = math.nan
    finish: float = math.nan
    last: float = math.nan
    gaps: list = field(default_factory=list)
    source: object = None
    target: object = None
    bytes: float = 0.0
    sent: bool = True
    rate: float = 0.0

    @property
    def rest(self):
        """Prompt tokens still to compute."""
        return self.need - self.done

    def reset(self):
        """Forget what was done."""
        self.done, self.need, self.left = self.cached, self.prompt, max(1, self.output - 1)
        self.preempted, self.host_s, self.deflected, self.gaps = 0, 0.0, False, []
        self.source = self.target = None


@dataclass(eq=False)
class Prefill:
    """A prefill instance; it looks at its queue when something of its own has changed, not when others' has."""

    number: int
    cal: object
    link: object
    queue: list = field(default_factory=list)
    part: Job | None = None
    running: list = field(default_factory=list)  # (job, tokens) of the step in progress
    end: float = math.inf
    held: int = 0
    link_free: float = 0.0
    rate: float = 0.0
    speed: float = 1.0
    down: bool = False
    changed: bool = False


@dataclass(eq=False)
class Decode:
    """A decode instance."""

    number: int
    cal: object
    link: object
    batch: list = field(default_factory=list)
    waiting: list = field(default_factory=list)
    landed: list = field(default_factory=list)
    part: Job | None = None
    hosted: list = field(default_factory=list)  # (job, tokens) of the step in progress
    end: float = math.inf
    since: float = 0.0
    held: int = 0
    link_free: float = 0.0
    assigned: int = 0
    rate: float = 0.0
    speed: float = 1.0
    down: bool = False
    changed: bool = False
    forgotten: list = field(default_factory=list)  # jobs in their last step that no longer count
    expected: float = 0.0
    slowdown: float = 1.0

    @property
    def context(self):
        """Resident tokens after the last finished step."""
        return sum(job.context for job in self.batch)


class Reference:
    """One run; `jobs` hold the outcome."""

    def __init__(self, cluster, requests, slos, policy=None, faults=(), interval=0.0):
        self.cluster, self.policy = cluster, as_policy(policy)
        self.spec = self.policy.kernel_spec() if hasattr(self.policy, "kernel_spec") else None
        self.late = self.spec is not None and self.spec.kind == "late"
        self.order = self.spec.order if self.spec else "fcfs"
        colocated = self.spec is not None and self.spec.kind == "colocated"
        pools = cluster.prefill_calibrations, cluster.decode_calibrations
        if colocated:
            pools = (), pools[0] + pools[1]
        self.prefill = [Prefill(i, c, cluster.transfer_law(c)) for i, c in enumerate(pools[0])]
        self.decode = [Decode(j, c, cluster.transfer_law(c)) for j, c in enumerate(pools[1])]
        for unit in self.prefill + self.decode:
            unit.rate = unit.link.bytes_per_s
        self.faults = sorted(edge for f in faults for edge in self.edges(f))
        self.again, self.interval, self.observe, self.seen = [], interval, 0.0, None
        self.choice = self.spec.decode_choice if self.spec else "prefilled"
        self.early_end = self.spec is not None and self.spec.count_until == "last_step_starts"
        self.shared, self.moving, self.now, self.overdue_first = [], [], 0.0, False
        self.strictness = slos
        self.jobs = [
            Job(i, float(t), int(p), int(o), int(h), slos[c], int(c))
            for i, (t, p, o, h, c) in enumerate(
                zip(
                    requests.arrival_s, requests.prompt_tokens, requests.output_tokens, requests.cached_tokens,
                    requests.slo_class, strict=True,
                )
            )
        ]  # fmt: skip
        for job in self.jobs:
            job.done, job.need, job.left = job.cached, job.prompt, max(1, job.output - 1)

    # ---- time

    def run(self):
        """Simulate to the end; return self."""
        todo = list(self.jobs)
        while True:
            times = [u.end for u in self.prefill + self.decode]
            times += [j.landed for j in self.moving if j.sent]
            times += [todo[0].arrival] if todo else []
            times += [self.faults[0][0]] if self.faults else []
            self.advance_links(min(times, default=math.inf))
            if math.isinf(self.now) or not any(math.isnan(job.finish) for job in self.jobs):
                return self
            t, pull = self.now, False
            for p in self.prefill:
                p.changed = p.end == t
            while self.faults and self.faults[0][0] == t:
                self.fault(*self.faults.pop(0)[1:])
                self.see_stops()
                pull = True
            if self.cluster.clock_tick_s:
                pull = self.arrivals(todo) or pull
            for p in self.prefill:
                if p.end == t:
                    self.end_prefill(p)
                    pull = True
            for job in sorted((j for j in self.moving if j.sent and j.landed == t), key=lambda j: j.target.number):
                self.moving.remove(job)
                job.target.landed.append(job)
                job.target.assigned += self.choice == "arrival_landed"
                job.source.held -= job.need
                job.source.changed = True
            for d in self.decode:
                if d.end == t:
                    pull = pull or bool(d.hosted)
                    self.end_decode(d)
            pull = self.arrivals(todo) or pull
            if self.order == "due":
                if self.late and pull:
                    self.watch_overdue()
                self.sort_due()
            self.fill()
            if self.late and pull:
                for d in self.decode:
                    while self.pull(d):
                        pass
                self.fill()
            for d in self.decode:
                if math.isinf(d.end):
                    self.start_decode(d)

    def arrivals(self, todo):
        """Route what arrives now, those that start again first; return whether any did."""
        some = False
        while self.again or (todo and todo[0].arrival == self.now):
            self.arrive(self.again.pop(0) if self.again else todo.pop(0))
            some = True
        return some

    def advance_links(self, until):
        """Move on to the next event; in a fairly shared network that may be the last byte of a transfer."""
        flows = [j for j in self.moving if not j.sent]
        out, into = Counter(j.source for j in flows), Counter(j.target for j in flows)
        for j in flows:
            j.rate = min(j.source.rate / out[j.source], j.target.rate / into[j.target])
        until = min([until] + [self.now + j.bytes / j.rate for j in flows])
        while self.interval and self.observe <= until < math.inf:
            before, self.now = self.now, self.observe
            self.seen, self.now = self.state(), before
            self.observe += self.interval
        for j in flows:
            ends = self.now + j.bytes / j.rate <= until
            j.bytes -= j.rate * (until - self.now)
            if ends:
                j.sent, j.landed = True, self.tick(until + self.raised(j.source.link.fixed_s))
        self.now = until

    # ---- routing

    def work(self, p, job):
        """W of what a prompt still needs at an instance."""
        c = self.cluster
        if c.packing:
            return float(p.cal.work_s(job.need, c.max_num_batched_tokens, job.done))
        return float(p.cal.lone_prefill_s(job.need, job.done))

    def begun_work(self, p):
        """Rest of the running step and of a begun prompt."""
        running = 0.0 if math.isinf(p.end) else p.end - self.now
        return running + (self.work(p, p.part) if p.part else 0.0)

    def deflected_work(self, d):
        """Host time of what waits, less what is done."""
        total = sum(j.host_s for j in d.waiting)
        part = d.part
        if part:
            start = part.cached if not part.preempted else 0
            total += part.host_s * part.rest / (part.need - start)
        return total + (d.end - self.now if d.hosted and not math.isinf(d.end) else 0.0)

    def tokens(self, p):
        """Prompt tokens at a prefill instance, those of the running step included."""
        rest = sum(j.rest for j in p.queue) + (p.part.rest if p.part else 0)
        return rest + sum(n for _, n in p.running)

    def state(self, job=None):
        """What the router sees."""
        P, D = self.prefill, self.decode
        moved = 0.0 if job is None else float(job.prompt - job.cached)

        def gone(unit):
            return UNAVAILABLE if unit.down else 0.0

        return ClusterState(
            time_s=self.now,
            prefill_work_s=np.array([gone(p) or sum(self.work(p, j) for j in p.queue) + self.begun_work(p) for p in P]),
            prefill_tokens=np.array([gone(p) or float(self.tokens(p)) for p in P]),
            prefill_requests=np.array([gone(p) or self.count(p) for p in P]),
            link_free_s=np.array([p.link_free for p in P]),
            deflected_work_s=np.array([gone(d) or self.deflected_work(d) for d in D]),
            batch=np.array([float(len(d.batch)) for d in D]),
            context_tokens=np.array([float(d.context) for d in D]),
            hosting=np.array([bool(d.down or d.waiting or d.part or d.hosted) for d in D]),
            decode_requests=np.array([gone(d) or d.assigned for d in D]),
            step_rest_s=np.array([0.0 if math.isinf(d.end) else d.end - self.now for d in D]),
            strictest_tbt_s=np.array([min((j.slo.tbt_s for j in d.batch), default=math.inf) for d in D]),
            slowdown=np.array([d.slowdown for d in D]),
            kv_share=np.array([(d.context + d.held) / d.cal.kv_capacity_tokens for d in D]),
            prefill_laws=[p.cal.prefill for p in P],
            decode_laws=[d.cal.step for d in D],
            budget=self.cluster.max_num_batched_tokens,
            transfer_s=np.array([p.link.fixed_s + p.link.kv_bytes_per_token * self.blocks(moved) / p.rate for p in P]),
        )  # fmt: skip

    def count(self, p):
        """Requests at a prefill instance."""
        ending = [j for j, _ in p.running if j is not p.part and not self.early_end]
        return len(p.queue) + len(ending) + (1 if p.part else 0)

    def blocks(self, tokens):
        """Tokens of the whole blocks that are sent for so many."""
        m = self.cluster.transfer_block_tokens
        return m * math.ceil(tokens / m)

    def cut(self, step):
        """Time of a step on the clock: whole ticks, at least one."""
        hz = self.cluster.ticks_per_s
        return max(1, math.floor(step * hz + 1e-9)) / hz if hz else step

    def raised(self, busy):
        """Time of a transfer on the clock, rounded up."""
        hz = self.cluster.ticks_per_s
        return math.ceil(busy * hz - 1e-9) / hz if hz else busy

    def tick(self, t):
        """Nearest tick of the clock."""
        hz = self.cluster.ticks_per_s
        return math.floor(t * hz + 0.5) / hz if hz else t

    def insert(self, queue, job):
        """Put a job in its place in a queue."""
        if self.order in ("fcfs", "due"):
            queue.append(job)
            return
        key = self.work(self.prefill[0], job)
        job.key = key if self.order == "spf" else key + self.spec.ageing_per_s * job.arrival
        at = len(queue)
        while at and queue[at - 1].key > job.key:
            at -= 1
        queue.insert(at, job)

    def arrive(self, job):
        """Route an arrival."""
        if self.late:
            self.insert(self.shared, job)
            return
        slo = job.slo
        view = RequestView(
            arrival_s=self.now, prompt_tokens=job.prompt, cached_tokens=job.cached, ttft_slo_s=slo.ttft_s,
            tbt_slo_s=slo.tbt_s,
        )  # fmt: skip
        state = self.state(job)
        if self.interval:
            state = replace(self.seen, time_s=self.now, transfer_s=state.transfer_s)
        route = self.policy.decide(state, view)
        if route.pool == "decode":
            self.deflect(job, self.decode[route.instance], route.host_s)
        else:
            self.insert(self.prefill[route.instance].queue, job)
            self.prefill[route.instance].changed = True
            if route.decode_instance is not None:
                job.target = self.decode[route.decode_instance]
                job.target.assigned += self.choice == "arrival"
            elif self.choice != "prefilled":
                job.target = self.least_loaded()
                job.target.assigned += self.choice == "arrival"

    def least_loaded(self):
        """Return the decode instance with the fewest requests among those that are up."""
        return min(self.decode, key=lambda d: (d.down, d.assigned))

    def deflect(self, job, d, host_s):
        """Send a job's prefill to a decode instance."""
        job.deflected, job.host_s, job.target, job.landed = True, host_s, d, self.now
        d.waiting.append(job)
        d.assigned += 1

    def pull(self, d):
        """Let a decode instance pull from the shared queue."""
        rule = self.spec.rule
        begun = [d.part] if d.part else []
        tokens = sum(j.rest for j in d.waiting + begun) + sum(n for _, n in d.hosted)
        if tokens >= rule.max_waiting_tokens or d.down or self.slow(d):
            return False
        of = rule.tables_of(d.number)
        price = rule.harm_weight * (rule.fault_harm if any(d.down or self.slow(d) for d in self.decode) else 1.0)
        k = max(1, sum(not p.down for p in self.prefill))
        v, best, best_value = self.deflected_work(d), None, 0.0
        ahead = sum(self.begun_work(p) for p in self.prefill)
        for at, job in enumerate(self.shared):
            s, x = lookup_curve(rule, rule.work_s, job.rest), lookup_curve(rule, rule.transfer_s, job.rest)
            B, K = len(d.batch), d.context
            h = max(1e-9, lookup_table(rule, of.contexts, of.host_s, job.rest, B, K))
            gain = ahead / k + s + x - v - h
            if price > 0:
                gain -= price * lookup_table(rule, of.contexts, of.harm_s, job.rest, B, K)
            relief = (len(self.shared) - at - 1) * s / k
            value = (gain + relief) / h
            full = 0 < rule.max_batch <= B or K + job.need > of.contexts[-1] or 0 < rule.deadline_s < v + h
            if gain + rule.relief_weight * relief > 0 and value > best_value and not full:
                best, best_value, best_host = job, value, h
                if self.order != "fcfs":
                    break
            ahead += s
        if best is None:
            return False
        self.shared.remove(best)
        self.deflect(best, d, best_host)
        return True

    def slow(self, d):
        """Whether an instance is too slow to host."""
        return 0 < self.spec.rule.slow_factor < d.slowdown

    def watch_overdue(self):
        """Note whether those who have waited for long go first: from a fault without room on, until nobody has."""
        rule, up = self.spec.rule, [d for d in self.decode if not d.down]
        if not rule.patience_s:
            return
        full = [
            0 < rule.max_batch <= len(d.batch) or d.context >= 0.9 * rule.tables_of(d.number).contexts[-1] for d in up
        ]
        if (len(up) < len(self.decode) or any(self.slow(d) for d in up)) and all(full):
            self.overdue_first = True
        elif not any(self.now - job.arrival > rule.patience_s for job in self.shared):
            self.overdue_first = False

    def sort_due(self):
        """Give up the longest until those that are left can all end in time, in order of arrival."""
        patience = self.spec.rule.patience_s if self.overdue_first else math.inf
        groups = [(self.shared, self.prefill)] if self.late else [(p.queue, [p]) for p in self.prefill if p.changed]
        for queue, servers in groups:
            ahead, first, kept, lost = sum(self.begun_work(p) for p in servers), [], [], []
            running = max(1, sum(not p.down for p in servers))
            for job in sorted(queue, key=lambda j: j.number):
                job.key = self.work(self.prefill[0], job)
                if self.now - job.arrival > patience:
                    first.append(job)
                    ahead += job.key
                    continue
                kept.append(job)
                before = ahead + sum(j.key for j in kept[:-1])
                if self.now + before / running + job.key > job.arrival + 0.85 * job.slo.ttft_s:
                    lost.append(kept.pop(max(range(len(kept)), key=lambda m: kept[m].key)))
            queue[:] = first + kept + sorted(lost, key=lambda j: (j.key, j.number))

    # ---- faults

    def edges(self, fault):
        """Return what a fault does when, for sorting."""
        unit = fault.instance + (0 if fault.pool == "prefill" else self.cluster.prefill_count)
        return (fault.from_s, unit, fault.kind, fault.factor, True), (
            fault.until_s,
            unit,
            fault.kind,
            fault.factor,
            False,
        )

    def fault(self, number, kind, factor, begins):
        """Let a fault begin or end."""
        unit = (self.prefill + self.decode)[number]
        if kind == "slow":
            unit.speed *= factor if begins else 1 / factor
        elif kind == "link":
            unit.rate *= 1 / factor if begins else factor
        else:
            unit.down = begins
            if unit in self.decode:
                unit.slowdown = 1.0
            unit.changed = True
            if begins:
                for p in self.prefill:  # caches lost elsewhere may let it start
                    p.changed = True
                (self.stop_prefill if number < len(self.prefill) else self.stop_decode)(unit)

    def see_stops(self):
        """Let a router that sees late know at once who is down."""
        if self.seen is None:
            return
        for i, p in enumerate(self.prefill):
            if p.down:
                for column in (self.seen.prefill_work_s, self.seen.prefill_tokens, self.seen.prefill_requests):
                    column[i] = UNAVAILABLE
        for j, d in enumerate(self.decode):
            if d.down:
                self.seen.deflected_work_s[j] = self.seen.decode_requests[j] = UNAVAILABLE
                self.seen.hosting[j] = True

    def drop(self, jobs):
        """Let jobs arrive again, in order of their first arrival."""
        for job in jobs:
            job.reset()
            job.restarts += 1
        self.again = sorted(self.again + list(jobs), key=lambda job: job.number)

    def stop_prefill(self, p):
        """Lose what an instance holds, computes and sends."""
        here = [j for j, _ in p.running if j is not p.part] + ([p.part] if p.part else [])
        if not self.late:
            here += p.queue
            p.queue = []
        sent = [j for j in self.moving if j.source is p]
        counted = (here if self.choice == "arrival" else []) + (sent if self.choice != "arrival_landed" else [])
        for job in counted:
            if job.target is not None:
                job.target.assigned -= 1
        self.moving = [j for j in self.moving if j.source is not p]
        p.running, p.part, p.held, p.end = [], None, 0, math.inf
        self.drop(here + sent)

    def stop_decode(self, d):
        """Lose the batch, hosted prompts, and caches that have landed or are on their way."""
        running = d.batch + [j for j, _ in d.hosted if j is not d.part]
        waiting = d.waiting + d.landed + ([d.part] if d.part else [])
        sent = [j for j in self.moving if j.target is d]
        for job in sent:
            job.source.held -= job.need
        d.assigned -= len(waiting) + len(running) - len(d.forgotten)
        d.assigned -= len(sent) if self.choice != "arrival_landed" else 0
        self.moving = [j for j in self.moving if j.target is not d]
        d.batch, d.hosted, d.waiting, d.landed, d.part = [], [], [], [], None
        d.held, d.end, d.forgotten = 0, math.inf, []
        self.drop(running + waiting + sent)

    # ---- prefill instances

    def fill(self):
        """Let idle instances start, in order of id, until none can."""
        idle = True
        while idle:
            idle = [p for p in self.prefill if math.isinf(p.end) and not p.down and (self.late or p.changed)]
            for p in idle:
                self.start_prefill(p)
            idle = [p for p in idle if not math.isinf(p.end)]

    def start_prefill(self, p):
        """Fill and start a step."""
        queue = self.shared if self.late else p.queue
        room, parts = self.cluster.max_num_batched_tokens, []
        job, p.part = p.part, None
        while room > 0 and len(parts) < (self.cluster.max_prefill_seqs or math.inf):
            if job is None:
                if not queue or (p.held and p.held + queue[0].need > p.cal.kv_capacity_tokens):
                    break
                job = queue.pop(0)
                job.start, job.source = self.now, p
                p.held += job.need
            n = min(room, job.rest) if self.cluster.packing else job.rest
            parts.append((job, n, job.done))
            job.done += n
            room = room - n if self.cluster.packing else 0
            p.part = job if job.rest else None
            job = None
        if parts:
            p.running = [(j, n) for j, n, _ in parts]
            step = p.speed * self.step_time(p.cal.prefill, 0, 0, [(n, done) for _, n, done in parts])
            p.end = self.tick(self.now + self.cut(step))

    @staticmethod
    def step_time(law, B, K, parts):
        """Time of a step from its parts (tokens, done before)."""
        n = float(sum(n for n, _ in parts))
        q = sum(n * (done + n / 2) for n, done in parts)
        return float(law.step_time_s(float(B), float(K), n, q, float(sum(done for _, done in parts))))

    def end_prefill(self, p):
        """Send the prompts that are done."""
        p.end = math.inf
        finished = [j for j, _ in p.running if j is not p.part]
        p.running = []
        for job in finished:
            job.prefilled = self.now
            d = job.target
            if d is not None and d.down:
                d.assigned -= self.choice == "arrival"
                d = None
            if self.cluster.first_token == "prefill" and job.output == 1:
                job.finish = self.now
                p.held -= job.need
                if d is not None:
                    d.assigned -= self.choice == "arrival"
                continue
            if d is None:
                d = job.target = self.least_loaded()
                d.assigned += self.choice != "arrival_landed"
            else:
                d.assigned += self.choice in ("prefilled", "arrival_sent")
            rate = min(p.rate, d.rate)
            busy = p.link.kv_bytes_per_token * self.blocks(job.prompt - job.cached) / rate
            if p.link.pipelined:
                layers = p.link.layers
                busy = max(busy / layers, busy - (self.now - job.start) * (layers - 1) / layers)
            begin = self.now
            if self.cluster.link_sharing == "fcfs":
                begin = max(self.now, p.link_free, d.link_free)
                p.link_free = d.link_free = begin + busy
            job.landed = self.tick(begin + self.raised(busy + p.link.fixed_s))
            job.bytes, job.sent = busy * rate, self.cluster.link_sharing != "fair"
            self.moving.append(job)

    # ---- decode instances

    def start_decode(self, d):
        """Preempt, admit, host, and start one step."""
        capacity, preempted = d.cal.kv_capacity_tokens, False
        if d.down:
            return
        while d.batch and d.context + d.held + len(d.batch) > capacity:
            self.preempt(d)
            preempted = True
        if self.spec is not None and self.spec.host_budget > 0:
            parts = self.fill_budget(d, preempted)
        else:
            blocked = preempted or (d.waiting and d.waiting[0].preempted)
            while not blocked and d.landed and self.admit(d, 1 if d.part else 0):
                pass
            parts = self.host(d)
        if not d.batch and not parts:
            return
        d.since = self.now
        d.expected = self.step_time(d.cal.step, len(d.batch), d.context, parts)
        d.end = self.tick(self.now + self.cut(d.speed * d.expected))
        d.forgotten = []
        if self.early_end:
            hosted = [j for j, _ in d.hosted if j is not d.part]
            d.forgotten = [j for j in d.batch + [j for j in hosted if j.preempted] if j.left == 1]
            d.forgotten += [j for j in hosted if not j.preempted and j.output == 1]
            d.assigned -= len(d.forgotten)

    def admit(self, d, hosting):
        """Let the first landed request join beside so many hosted prompts; return whether it could."""
        job = d.landed[0]
        if len(d.batch) + hosting >= self.cluster.max_num_seqs:
            return False
        if d.context + d.held + job.need + len(d.batch) + 1 > d.cal.kv_capacity_tokens:
            return False
        d.landed.pop(0)
        job.admitted = self.now
        job.fresh, job.context = True, job.need
        d.batch.append(job)
        return True

    def take(self, d, hosting):
        """Take the first waiting prompt into the step beside so many others; None if it finds no place."""
        held, head = d.context + d.held, d.waiting[0]
        if len(d.batch) + hosting >= self.cluster.max_num_seqs:
            return None
        if held and held + head.need + len(d.batch) + hosting + 1 > d.cal.kv_capacity_tokens:
            return None
        d.waiting.pop(0)
        d.held += head.need
        if not head.preempted:
            head.start = self.now
        return head

    def fill_budget(self, d, preempted):
        """Fill a step's token budget: residents, the begun prompt, then one queue of landed and local requests."""
        room, parts = self.spec.host_budget - len(d.batch), []
        job = d.part
        if room <= 0:
            d.hosted = []
            return []
        d.part = None
        while room > 0:
            if job is None:
                first = d.waiting[0] if d.waiting else None
                if d.landed and not (first and (first.preempted or first.landed < d.landed[0].landed)):
                    if preempted or not self.admit(d, len(parts)):
                        break
                    room -= 1
                    continue
                job = self.take(d, len(parts)) if first else None
                if job is None:
                    break
            n = min(room, job.rest)
            room -= n
            parts.append((job, n, job.done))
            job.done += n
            d.part = job if job.rest else None
            job = None
        d.hosted = [(j, n) for j, n, _ in parts]
        return [(n, done) for _, n, done in parts]

    def preempt(self, d):
        """Drop the newest resident and let it come back first."""
        job = d.batch.pop()
        job.need, job.done, job.preempted, job.last = job.context + 1, 0, job.preempted + 1, self.now
        job.host_s = 0.0
        d.waiting.insert(0, job)

    def host(self, d):
        """Choose the prompt tokens of the next step by its length."""
        B, K, parts, more = len(d.batch), d.context, [], True
        shares = self.spec is not None and self.spec.host_packing
        job, d.part = d.part, None
        while more:
            if job is None:
                if not d.waiting or (parts and not self.chunk(d, d.waiting[0], B, K, parts)):
                    break
                job = self.take(d, len(parts))
                if job is None:
                    break
            n = self.chunk(d, job, B, K, parts)
            more = shares and n == job.rest
            parts.append((job, n, job.done))
            job.done += n
            d.part = job if job.rest else None
            job = None
        d.hosted = [(j, n) for j, n, _ in parts]
        return [(n, done) for _, n, done in parts]

    def chunk(self, d, job, B, K, parts):
        """Choose the largest safe chunk beside others; in a step without others the smallest if none is safe."""
        spec = self.spec
        chunks = spec.chunks if spec else (2048, 1024, 512, 256, 128)
        strictest = min((j.slo.tbt_s for j in d.batch), default=job.slo.tbt_s)
        limit = spec.limit_s if spec and spec.limit_s > 0 else (spec.beta if spec else 1.0) * strictest
        limit /= d.speed
        if not parts:
            return largest_safe_chunk(d.cal.step, B, K, job.done, job.rest, chunks, limit) or min(chunks[-1], job.rest)
        beside = [(n, done) for _, n, done in parts]
        for candidate in chunks:
            n = min(candidate, job.rest)
            within = sum(m for m, _ in beside) + n <= chunks[0]
            if within and self.step_time(d.cal.step, B, K, [*beside, (n, job.done)]) <= limit:
                return n
        return 0

    def end_decode(self, d):
        """Count a step's tokens; let requests leave and hosted prompts join."""
        step, t = self.now - d.since, self.now
        d.end, d.slowdown = math.inf, step / d.expected
        for job in d.batch:
            job.context += 1
            job.left -= 1
            if job.fresh:
                job.first, job.fresh = t, False
                if self.cluster.first_token == "prefill":
                    job.gaps.append(t - job.prefilled)
            else:
                job.gaps.append(step)
            if job.left == 0:
                job.finish = t
                d.assigned -= job not in d.forgotten
        d.batch = [j for j in d.batch if j.left]
        finished, d.hosted = [j for j, _ in d.hosted if j is not d.part], []
        for job in finished:
            d.held -= job.need
            if job.preempted:
                job.gaps.append(t - job.last)
            else:
                job.prefilled = job.admitted = job.first = t
                job.left = job.output
            job.left -= 1
            job.fresh, job.context = False, job.need
            if job.left == 0:
                job.finish = t
                d.assigned -= job not in d.forgotten
            else:
                d.batch.append(job)
        d.forgotten = []
