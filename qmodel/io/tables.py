"""Write a pandas frame as CSV or Parquet, atomically, and read it back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qmodel.errors import InputError, MissingExtraError
from qmodel.io.atomic import atomic_path, check_target

__all__ = ["check_table_target", "read_table", "save_table"]

_SUFFIXES = (".csv", ".csv.gz", ".parquet")


def check_table_target(path: str | Path) -> Path:
    """Return `path` when a table can be written there.

    Parameters
    ----------
    path : str or Path
        File ending in .csv, .csv.gz or .parquet.

    Returns
    -------
    Path
        The same path.

    Raises
    ------
    InputError
        When the suffix is another one or the folder cannot be written.
    MissingExtraError
        When Parquet is asked for and pyarrow is not installed.
    """
    target = Path(path)
    if not target.name.lower().endswith(_SUFFIXES):
        raise InputError("table file", f"'{target}'", f"a name ending in {', '.join(_SUFFIXES)}")
    if target.suffix.lower() == ".parquet":
        try:
            import pyarrow  # noqa: F401 - only looked for
        except ImportError:
            raise MissingExtraError(
                "writing Parquet needs pyarrow", remedy="pip install 'qmodel[profiles]', or write .csv"
            ) from None
    return check_target(target)


def save_table(frame: Any, path: str | Path) -> None:
    """Write a frame to `path`; the suffix chooses the format.

    Parameters
    ----------
    frame : pandas.DataFrame
        Table to write.
    path : str or Path
        See `check_table_target`.
    """
    target = check_table_target(path)
    with atomic_path(target) as temporary:
        if target.suffix.lower() == ".parquet":
            frame.to_parquet(temporary, index=False)
        else:
            compression = {"method": "gzip", "mtime": 0} if target.suffix.lower() == ".gz" else None
            frame.to_csv(temporary, index=False, compression=compression, lineterminator="\n")


def read_table(path: str | Path) -> Any:
    """Return the frame that `save_table` wrote; numbers come back to the last digit.

    Parameters
    ----------
    path : str or Path
        A .csv, .csv.gz or .parquet file.

    Returns
    -------
    pandas.DataFrame
        The table.
    """
    import pandas as pd

    source = Path(path)
    if source.suffix.lower() == ".parquet":
        return pd.read_parquet(source)
    return pd.read_csv(source, engine="python")  # its numbers are Python's own, to the last digit
