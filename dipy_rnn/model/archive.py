"""The archive of a model file: entries are read and verified before torch loads them.

A TorchScript archive is a zip file. Its entries are files in one folder. First the
sizes, names and checksums of all entries are checked, then the metadata. No code of the
archive runs in this module. Torch then loads a copy that holds only the verified
entries.
"""

from collections.abc import Mapping
import io
import zipfile

from dipy_rnn._typing import AnyPath
from dipy_rnn.model.metadata import ModelFileError, ModelMetadata

#: Size limits of a file, in bytes and in entries. The largest architecture, cai2023,
#: has 17 MB of parameters in about 60 entries.
FILE_LIMIT = 1 << 28
ENTRIES_LIMIT = 1 << 12

METADATA_NAME = "metadata.json"
_METADATA_LIMIT = 1 << 20
_REMEDY = "doc/model_file.md describes how to add metadata to a model"


def read_content(path: AnyPath) -> bytes:
    """Read a file, up to the size limit.

    Parameters
    ----------
    path : str or Path

    Returns
    -------
    content : bytes

    Raises
    ------
    ModelFileError
        If the file is larger than ``FILE_LIMIT``.

    Examples
    --------
    >>> from dipy_rnn.model import model_path
    >>> read_content(model_path())[:2]
    b'PK'
    """
    with open(path, "rb") as file:
        content = file.read(FILE_LIMIT + 1)
    if len(content) > FILE_LIMIT:
        raise ModelFileError(
            f"{path} is not a usable model: it is larger than {FILE_LIMIT >> 20} MiB."
        )
    return content


def read_archive(
    content: bytes, path: AnyPath
) -> tuple[dict[str, bytes], ModelMetadata]:
    """Verify an archive and read its metadata. No code of the archive runs.

    Parameters
    ----------
    content : bytes
        The content of a model file.
    path : str or Path
        Its name in error messages.

    Returns
    -------
    entries : dict of str to bytes
        The content of each entry, by its name without the folder.
    metadata : ModelMetadata

    Raises
    ------
    ModelFileError
        If it is not an archive, is damaged or too large, or its metadata is missing or
        invalid.

    Examples
    --------
    >>> from dipy_rnn.model import model_path
    >>> entries, metadata = read_archive(read_content(model_path()), "default.pt")
    >>> "data.pkl" in entries, metadata.kind
    (True, 'sh')
    """
    try:
        entries = _entries(content)
        text = entries.get(f"extra/{METADATA_NAME}")
        if text is None:
            if "data.pkl" in entries and not any(
                name.endswith(".py") for name in entries
            ):
                raise ModelFileError(
                    "it holds weights without a network, as a checkpoint does; give "
                    "the model.pt that training writes"
                )
            raise ModelFileError(f"it has no metadata; {_REMEDY}")
        if len(text) > _METADATA_LIMIT:
            raise ModelFileError("its metadata is larger than 1 MiB")
        return entries, ModelMetadata.from_json(text.decode("utf-8"))
    except ModelFileError as error:
        raise ModelFileError(f"{path} is not a usable model: {error}.") from None
    except Exception:  # zipfile and zlib raise many types
        raise ModelFileError(
            f"{path} is not a model file: it is not a TorchScript archive, as "
            "dipy_rnn.model.save_model writes, or it is damaged."
        ) from None


def _entries(content: bytes) -> dict[str, bytes]:
    """Return the content of each entry, by its name without the folder."""
    # Entries are counted before zipfile lists them. The list takes ten times the memory
    # of the file.
    if content.count(b"PK\x01\x02") > ENTRIES_LIMIT:
        raise ModelFileError(f"it has more than {ENTRIES_LIMIT} entries")
    entries: dict[str, bytes] = {}
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        listed = archive.infolist()
        if sum(entry.file_size for entry in listed) > FILE_LIMIT:
            raise ModelFileError(
                f"its entries are larger than {FILE_LIMIT >> 20} MiB together"
            )
        if len({entry.filename.partition("/")[0] for entry in listed}) > 1:
            raise ModelFileError("its entries do not lie in one folder")
        for entry in listed:
            name = entry.filename.partition("/")[2]
            if name in entries:
                raise ModelFileError(f"it has two entries {name!r}")
            with archive.open(entry) as file:
                # zipfile returns no more than the listed size. It compares the checksum
                # only if it is asked for more than that.
                entries[name] = file.read(entry.file_size + 1)
            if len(entries[name]) != entry.file_size:
                raise ModelFileError(f"its entry {name!r} is cut short")
    return entries


def packed(entries: Mapping[str, bytes]) -> io.BytesIO:
    """Write verified entries into a new archive, for torch.

    Parameters
    ----------
    entries : mapping of str to bytes
        From :func:`read_archive`.

    Returns
    -------
    archive : io.BytesIO
        Positioned at its beginning.

    Examples
    --------
    >>> packed({"version": b"3"}).read(2)
    b'PK'
    """
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        for name, content in entries.items():
            file.writestr(f"archive/{name}", content)
    archive.seek(0)
    return archive
