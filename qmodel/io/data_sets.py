"""Published traces: where they are, their checksums, and how to fetch them once."""

from __future__ import annotations

import os
import shutil
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qmodel.errors import InputError, MissingExtraError

__all__ = ["DATA_SETS", "DataSet", "data_folder", "fetch_data", "list_data"]

TIMEOUT_S = 30.0
_CHUNK = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSet:
    """A published file.

    Parameters
    ----------
    file : str
        Name it gets here.
    url : str
        Where it is, at a fixed version.
    sha256 : str
        Checksum of its content.
    licence : str
        Under which it was published.
    about : str
        What it is, in a few words.
    """

    file: str
    url: str
    sha256: str
    licence: str
    about: str


_AZURE = "https://raw.githubusercontent.com/Azure/AzurePublicDataset/b469a113cedca53ddc3bdea71a143dc4b7d8700c/data/"
_MOONCAKE = (
    "https://raw.githubusercontent.com/kvcache-ai/Mooncake/3b5a594133958449a1feaf1c9e0fc1b553e34a28/"
    "FAST25-release/traces/"
)
_PUBLISHED = (
    (
        "azure-2023-code", _AZURE, "AzureLLMInferenceTrace_code.csv", "CC-BY 4.0",
        "Azure code completion, 16 November 2023", "54e9a6d2a4bd06ba1e060304b900abbc74cbea53de96506e60fe5bb4f2277fb6",
    ),
    (
        "azure-2023-conv", _AZURE, "AzureLLMInferenceTrace_conv.csv", "CC-BY 4.0",
        "Azure conversation, 16 November 2023", "2f1e5b666d4e3055fdbba98598ce2ec307767b9064e03e2fa46676dbcc7d0bf8",
    ),
    (
        "mooncake-conversation", _MOONCAKE, "conversation_trace.jsonl", "Apache-2.0",
        "Mooncake conversation, one hour", "b8cbb061a85206d729d91cdc2981f43c9e0d99209dce588d3af5f7934408b9df",
    ),
    (
        "mooncake-synthetic", _MOONCAKE, "synthetic_trace.jsonl", "Apache-2.0",
        "Mooncake synthetic mix", "bd070915a98fc0ed264d7cfef2ce746002eb3076a695ec31ba2674c0111ec131",
    ),
)  # fmt: skip
DATA_SETS: dict[str, DataSet] = {
    name: DataSet(file=file, url=folder + file, sha256=sha256, licence=licence, about=about)
    for name, folder, file, licence, about, sha256 in _PUBLISHED
}


def data_folder() -> Path:
    """Return where fetched files are kept: `$QMODEL_DATA`, else the user's cache."""
    named = os.environ.get("QMODEL_DATA")
    cache = os.environ.get("XDG_CACHE_HOME")
    return Path(named) if named else (Path(cache) if cache else Path.home() / ".cache") / "qmodel" / "data"


def list_data(known: dict[str, DataSet] | None = None) -> list[dict[str, Any]]:
    """Return one row a data set: name, about, licence, source and whether it is here.

    Parameters
    ----------
    known : dict, optional
        Data sets by name; the published ones by default.

    Returns
    -------
    list of dict
        In the order of the table; ``path`` is None for what was not fetched yet.
    """
    rows = []
    for name, entry in (DATA_SETS if known is None else known).items():
        path = data_folder() / entry.file
        here = str(path) if path.is_file() else None
        rows.append({"name": name, "about": entry.about, "licence": entry.licence, "url": entry.url, "path": here})
    return rows


def fetch_data(name: str, known: dict[str, DataSet] | None = None) -> Path:
    """Return the path of a data set, downloaded and checked when it is not here yet.

    Parameters
    ----------
    name : str
        One of `DATA_SETS`.
    known : dict, optional
        Data sets by name; the published ones by default.

    Returns
    -------
    Path
        The file, its checksum right. A broken download is resumed by the next call.

    Raises
    ------
    InputError
        When there is none of that name, it cannot be had, or its content is another than it was.
    MissingExtraError
        When pooch is not installed.
    """
    sets = DATA_SETS if known is None else known
    if name not in sets:
        raise InputError("data set", repr(name), f"one of {', '.join(sets)}", "see: qmodel data list")
    try:
        import pooch
    except ImportError as error:
        raise MissingExtraError("fetching data needs pooch", remedy="pip install 'qmodel[data]'") from error
    entry, folder = sets[name], data_folder()
    pooch.get_logger().setLevel("ERROR")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        got = pooch.retrieve(
            entry.url, f"sha256:{entry.sha256}", fname=entry.file, path=folder, downloader=_resuming(folder, entry)
        )
    except (OSError, ValueError) as error:
        # a part that made a wrong whole must not be resumed
        if not isinstance(error, OSError):
            _part(folder, entry).unlink(missing_ok=True)
        remedy = f"try again online, or put it at {folder / entry.file} yourself"
        raise InputError(f"download of '{entry.url}'", f"broken ({error})", "complete and unchanged", remedy) from error
    _part(folder, entry).unlink(missing_ok=True)
    return Path(got)


def _part(folder: Path, entry: DataSet) -> Path:
    return folder / f".{entry.file}.part"


def _resuming(folder: Path, entry: DataSet) -> Any:
    """Return a downloader for pooch that goes on where an earlier one stopped."""

    def download(url: str, output_file: str, _pooch: object) -> None:
        part = _part(folder, entry)
        have = part.stat().st_size if part.is_file() else 0
        request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
        try:
            response = urllib.request.urlopen(request, timeout=TIMEOUT_S)
        except urllib.error.HTTPError as error:
            if error.code != 416:  # 416: the part is already whole
                raise
            error.close()
        else:
            with response, part.open("ab" if response.status == 206 else "wb") as out:
                shutil.copyfileobj(response, out, _CHUNK)
                expected = response.length
            if expected:
                raise OSError(f"{expected} bytes are missing")
        shutil.copyfile(part, output_file)

    return download
