"""Folders of the repository and of its outputs, and safe writing into them.

Inputs (notebooks, shipped models, sample images) lie in the repository; an installed package brings those
that it needs, in the same layout (setup.py lists them). Everything that a run writes lies under `outputs()`:
the folder that the environment variable MONKEYLIB_OUTPUTS names, or else the repository, or of an installed
package the working folder. Tests set the variable, so that they leave the checkout as it was.

Results and figures of the profile nano are part of the repository. Who explores its notebooks changes none of
them: theirs lie in data/lab/. Those that the series of notebooks makes lie in data/reproduced/, beside which
the committed ones can be held; `monkeylib reproduce --publish` copies them into the repository.

Nothing of one seed replaces what another has made. Seed 0 has the plain names, and any other one has its own
folders: data/runs/nano and data/runs/nano-seed-7. What names its seeds itself, such as the grid of
experiments, lies in the plain ones.
"""

import contextlib
import errno
import os
import re
import shlex
import shutil
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

from monkeylib.errors import nearest

_PACKAGE = Path(__file__).resolve().parent
SHIPPED = _PACKAGE / "shipped"  # files of the repository inside an installed package
# Without pyproject.toml beside it, the package lies among others in site-packages.
REPOSITORY = _PACKAGE.parent if (_PACKAGE.parent / "pyproject.toml").is_file() else SHIPPED
# Names in the environment of a notebook's kernel, and of what it starts, the run of the series that it is in.
STARTED_BY = "MONKEYLIB_STARTED_BY"
# Names in the environment of the series, its kernels, and what they start, the folder in data/reproduced/ of
# its results and figures: profile and seed.
REPRODUCES = "MONKEYLIB_REPRODUCES"
# Names in the environment of a process, and of what it starts, the seed of its results and figures.
SEED = "MONKEYLIB_SEED"
COMMITTED_PROFILE = "nano"  # the profile whose results and figures are part of the repository
SHIPPED_MONKEY = "nano-monkey"  # the model that answers where none is named, and the profile that trains it
SHIPPED_BASE = "nano-base"  # the model that it is trained from


def is_installed() -> bool:
    """Return whether this is an installed package, and no checkout of the repository."""
    return REPOSITORY == SHIPPED


def outputs() -> Path:
    """Return the folder under which runs, results and figures are written."""
    default = Path.cwd() if is_installed() else REPOSITORY
    return Path(os.environ.get("MONKEYLIB_OUTPUTS", default)).resolve()


def published(path: Path) -> Path:
    """Return the file of a result that is to be read: that of the outputs, or the published one of its name.

    The published one is read where there is no other: beside an installed package, by the series of
    notebooks, and by who explores a checkout. The last also reads it where it is newer, but for another seed
    than 0, of which nothing is published.
    """
    own = unpublished()
    if own is not None and path.is_relative_to(own):
        committed = REPOSITORY / path.relative_to(own)
        is_own = path.exists() if reproduced() or seed() != 0 else _is_newer(path, committed)
        return path if is_own or not committed.exists() else committed

    if path.exists() or not is_installed():
        return path
    # The folder of another seed is named after it.
    parts = [part.removesuffix(seed_suffix(seed())) for part in path.relative_to(outputs()).parts]
    committed = SHIPPED.joinpath(*parts)
    return committed if committed.exists() else path


def unpublished() -> Path | None:
    """Return the folder of results and figures that are no part of the repository; None if they are."""
    return reproduced() or (lab(seed()) if explores() else None)


def reproduced() -> Path | None:
    """Return the folder of the results and figures of the series that this process belongs to, if to any."""
    name = os.environ.get(REPRODUCES)
    return outputs() / "data" / "reproduced" / name if name else None


def _is_newer(path: Path, other: Path) -> bool:
    """Return whether a file exists, and is not older than the other one."""
    if not (path.exists() and other.exists()):
        return path.exists()
    return path.stat().st_mtime_ns >= other.stat().st_mtime_ns


def explores() -> bool:
    """Return whether a user runs a notebook of a checkout, which `monkeylib reproduce` has not started."""
    is_told_where = {"MONKEYLIB_OUTPUTS", STARTED_BY} & os.environ.keys()
    return in_notebook() and not is_installed() and not is_told_where


def lab(seed: int = 0) -> Path:
    """Return the folder of what users make while they explore a checkout (not committed)."""
    folder = REPOSITORY / "data" / "lab"
    return folder if seed == 0 else folder / f"seed-{seed}"


def use_seed(seed: int) -> None:
    """Have this process, and what it starts, read and write results and figures of a seed.

    A notebook calls it with its parameter. Without it, they are those of seed 0.
    """
    os.environ[SEED] = str(seed)


def seed() -> int:
    """Return the seed of the results and figures that this process reads and writes.

    Raises:
        ValueError: the environment variable MONKEYLIB_SEED holds something else.
    """
    text = os.environ.get(SEED, "0")
    try:
        return int(text)
    except ValueError:
        raise ValueError(
            f"{SEED} has to be a seed, such as 7, got {text!r}: unset it, or set it to one"
        ) from None


def seed_suffix(seed: int) -> str:
    """Return how the name of a folder ends in which only a seed's files lie: not at all for seed 0."""
    return "" if seed == 0 else f"-seed-{seed}"


def ends_as_of_a_seed(name: str) -> bool:
    """Return whether a name ends as `seed_suffix` does."""
    return re.search(r"-seed--?[0-9]+$", name) is not None


def notebooks() -> Path:
    """Return the folder of the committed notebooks."""
    return REPOSITORY / "notebooks"


def models() -> Path:
    """Return the folder of the models that the repository ships, one folder each."""
    return REPOSITORY / "data" / "models"


def shipped_models() -> list[Path]:
    """Return the folders of the models that can be loaded as they are."""
    return sorted(file.parent for file in models().glob("*/config.json"))


def shipped_monkey() -> Path:
    """Return the folder of the Monkey that the repository ships."""
    return models() / SHIPPED_MONKEY


def is_model(folder: Path) -> bool:
    """Return whether a folder holds a model that can be loaded as it is."""
    return (folder / "config.json").is_file()


def find_model(name: Path | str) -> Path:
    """Return the folder of a shipped model that is named, such as "nano-monkey", and any other path as it is.

    A folder of that path comes first.
    """
    path = to_path(name)
    is_shipped = path.name == str(path) and is_model(models() / path)
    return models() / path if is_shipped and not path.exists() else path


def suggest_model(name: Path | str, otherwise: str) -> str:
    """Return "did you mean nano-monkey?" for a name that is spelled like a shipped model's, and any other's
    `otherwise`."""
    if (models() / name / "README.md").is_file() and not is_model(models() / name):
        return f"it is a part of a model, see {display_path(models() / name / 'README.md')}"
    others = [folder.name for folder in shipped_models() if folder.name != str(name)]
    return otherwise if Path(name).exists() else nearest(str(name), others) or otherwise


def samples() -> Path:
    """Return the folder of the small images that the repository ships."""
    return REPOSITORY / "data" / "samples"


def find_sample(source: str) -> str:
    """Return the path of a shipped image that is named, such as "receipt.png", and any other source as it is.

    A file of that path comes first.
    """
    name, _, suffix = source.partition("#")
    sample = samples() / name
    is_sample = Path(name).name == name and name not in ("", "-") and sample.suffix in (".png", ".jpg")
    if not is_sample or Path(name).exists() or not sample.is_file():
        return source
    return f"{sample}#{suffix}" if suffix else str(sample)


def cache() -> Path:
    """Return the folder of downloads and of other files that can be produced again (not committed)."""
    return outputs() / "data" / "cache"


def benchmarks() -> Path:
    """Return the folder of downloaded benchmarks (not committed): MONKEYLIB_DATA, or one in the cache."""
    return Path(os.environ.get("MONKEYLIB_DATA", cache() / "benchmarks")).resolve()


def runs(profile: str, seed: int = 0) -> Path:
    """Return the folder of a profile's checkpoints, predictions and executed notebooks (not committed).

    Args:
        profile: name of the profile.
        seed: of the training; leave it out for what names its seeds itself.
    """
    return outputs() / "data" / "runs" / f"{profile}{seed_suffix(seed)}"


def grid_runs(profile: str) -> Path:
    """Return the folder of the runs of a profile's grid of experiments, with all seeds."""
    return runs(profile) / "grid"


def results(profile: str) -> Path:
    """Return the folder of a profile's result tables (CSV), with the seed of this process."""
    own = unpublished()  # of this seed alone
    if own is not None:
        return own / "data" / "results" / profile
    return outputs() / "data" / "results" / f"{profile}{seed_suffix(seed())}"


def figures(profile: str) -> Path:
    """Return the folder of a profile's figures, with the seed of this process: for `nano` beside data/, for
    others, and for another seed than 0, in the runs' folder."""
    own = unpublished()
    if profile == COMMITTED_PROFILE and (own is not None or seed() == 0):
        return (own or outputs()) / "figures"
    return runs(profile, seed()) / "figures"


def to_path(path: Path | str) -> Path:
    """Return the path that a user has given, with the home folder in place of its `~`.

    Shells leave one in `--out=~/run`, and nobody replaces it in a text.
    """
    return Path(os.path.expanduser(path))


def display_path(path: Path | str) -> str:
    """Return a path for messages, as it can be used where they are printed: relative to the working folder if
    it lies below it, and else in full.

    In a notebook, whose output is the same on every machine, it is the `recorded_path`.
    """
    if in_notebook():
        return recorded_path(path)

    path = Path(path).resolve()
    folder = Path.cwd()
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else str(path)


def shell_path(path: Path | str) -> str:
    """Return the `display_path` as a command in a message has it: in quotes where a shell would split it."""
    return shlex.quote(display_path(path))


# A command in a message: between quotes, or where something ends by it.
_COMMAND = re.compile(r"(^|`|: )monkeylib (?=[a-z])")


def as_typed(text: str) -> str:
    """Return a message whose commands can be typed here: with the path of this program where the user has
    called it by one, such as `.venv/bin/monkeylib`, since its folder is not on the path of the shell."""
    program = sys.argv[0] if sys.argv else ""
    if Path(program).name != "monkeylib" or shutil.which("monkeylib") is not None:
        return text
    return _COMMAND.sub(lambda match: f"{match[1]}{shlex.quote(program)} ", text)


def program(name: str) -> str:
    """Return how to call a program of this environment, which need not be on the path of the shell."""
    path = Path(sys.executable).parent / name
    if not path.exists() or shutil.which(name) == str(path):
        return name

    # Links stay: an environment may be one.
    folder = Path.cwd()
    return shlex.quote(str(path.relative_to(folder) if path.is_relative_to(folder) else path))


def in_notebook() -> bool:
    """Return whether the code runs in the kernel of a notebook."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return shell is not None and hasattr(shell, "kernel")


def recorded_path(path: Path | str) -> str:
    """Return a path for files that are read on other machines: relative to the outputs or to the repository
    if it lies in one of them. Results and figures of the series are named as they will be published."""
    path = Path(path).resolve()

    for folder in (reproduced(), outputs(), REPOSITORY):
        if folder is not None and path.is_relative_to(folder):
            return path.relative_to(folder).as_posix()

    return str(path)


# What the system says of a place that can't be written to, and of one that is full.
_UNWRITABLE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST}
FULL_DISK = frozenset({errno.ENOSPC, errno.EDQUOT})


def unwritable_sentence(error: OSError, path: Path | str | None = None) -> str | None:
    """Return the sentence of an error of writing, with what to do; None for any other error.

    Args:
        error: the system's error.
        path: the folder or file that can't be written. By default the one that the error names, if it was
            surely written to, and not read.
    """
    if error.errno not in _UNWRITABLE | FULL_DISK or not isinstance(path or error.filename, str | Path):
        return None

    name = Path(path or error.filename)
    # Of a temporary file, the name that it would have got.
    intended = leftover_name(name.name)
    if path is None and intended is None and error.errno not in FULL_DISK | {errno.EROFS}:
        return None
    path = name if intended is None else name.with_name(intended)

    advice = "make room, or name another folder" if error.errno in FULL_DISK else "name another folder"
    if path.resolve().is_relative_to(outputs()):
        advice += ", by MONKEYLIB_OUTPUTS where no option does"
    return f"{display_path(path)} can't be written to ({os.strerror(error.errno)}): {advice}"


@contextlib.contextmanager
def explain_unwritable(folder: Path) -> Iterator[None]:
    """Give the system's errors of a folder that can't be written, or is full, a sentence with what to do."""
    try:
        yield
    except OSError as error:
        sentence = unwritable_sentence(error, folder)
        if sentence is None:
            raise
        explained = type(error)(sentence)
        explained.errno = error.errno  # callers may decide by it
        raise explained from error


# What `atomic_write` and `create_folder` leave behind when they are killed: `.stem.<12 hex digits>.suffix`.
_LEFTOVER = re.compile(r"\.(?P<stem>.+)\.[0-9a-f]{12}(?P<suffix>\.[^.]+)?")


def temporary_path(path: Path, suffix: str = "") -> Path:
    """Return a path beside another one. Its name is random: process ids may repeat on other machines."""
    stem = path.name.removesuffix(suffix)
    return path.with_name(f".{stem}.{uuid.uuid4().hex[:12]}{suffix}")


def leftover_name(name: str) -> str | None:
    """Return the name that a temporary file or folder would have got; None for any other name."""
    match = _LEFTOVER.fullmatch(name)
    return None if match is None else match["stem"] + (match["suffix"] or "")


@contextlib.contextmanager
def atomic_write(path: Path, *, durable: bool = False) -> Iterator[Path]:
    """Yield a temporary path beside `path` that replaces it if the block succeeds, and is removed if not.

    A reader of `path` therefore sees either the old file or the complete new one.

    Args:
        path: the file to write.
        durable: have the system write the bytes to the disk before they get their name, so that the file is
            complete also after a power cut.

    Raises:
        OSError: the folder can't be written, or is full.
    """
    # Processes on several machines may share the folder, so another one may create it first.
    with explain_unwritable(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_path(path, path.suffix)

    try:
        yield temporary
        if durable:
            sync(temporary)
        os.replace(temporary, path)
        if durable:
            sync(path.parent)
    except OSError as error:
        # Of the temporary file, which libraries name in their own words. A full disk is the caller's to tell.
        if error.errno in FULL_DISK or temporary.name not in str(error):
            raise
        with explain_unwritable(path):
            raise
    finally:
        # After success there is nothing left to remove, and in a folder that can't be written neither.
        with contextlib.suppress(OSError):
            temporary.unlink()


def require_new(path: Path) -> None:
    """Check that nothing lies at a path that a user has named for a new file.

    Raises:
        FileExistsError: something does.
    """
    if os.path.lexists(path):
        raise FileExistsError(f"{display_path(path)} exists already: name a new file")


def sync(path: Path) -> None:
    """Have the system write a file's bytes, or the names in a folder, to the disk.

    Raises:
        OSError: the bytes of a file cannot be written, for example since the disk is full.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:
        # Some network file systems can't do it for folders.
        if not path.is_dir():
            raise
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def scratch_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path`, which is removed after the block.

    What a killed process has left of such a folder is removed.

    Raises:
        OSError: its parent can't be written, or is full.
    """
    with explain_unwritable(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    _remove_left_folders(path)

    temporary = temporary_path(path)
    with _lock_file(temporary, path):
        with explain_unwritable(path):
            temporary.mkdir()
        try:
            yield temporary
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def create_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder that becomes `path` if the block succeeds, and is removed if not.

    What a killed process has left of a folder of this name is removed.

    Raises:
        FileExistsError: `path` is a file or a folder that is not empty, before or after the block.
        OSError: the files cannot be written, for example since the disk is full.
    """
    if os.path.lexists(path) and not (path.is_dir() and not any(path.iterdir())):
        raise FileExistsError(f"{display_path(path)} exists already: name a new folder")

    # Beside its destination: a rename is one move only within a file system.
    with scratch_folder(path) as temporary:
        yield temporary

        for file in temporary.rglob("*"):
            if not file.is_dir():
                sync(file)
        try:
            os.replace(temporary, path)
        except OSError as error:
            # Another process has written it in the meantime; an empty folder would have been replaced.
            if os.path.lexists(path):
                raise FileExistsError(f"{display_path(path)} exists already: name a new folder") from error
            raise


@contextlib.contextmanager
def _lock_file(temporary: Path, path: Path) -> Iterator[None]:
    """Hold the lock of a temporary folder, a file beside it, which tells others that it is in use."""
    from filelock import FileLock

    lock = FileLock(_lock_path(temporary))
    try:
        with explain_unwritable(path):
            lock.acquire()
    except NotImplementedError:  # a file system without locks
        yield
        return

    try:
        yield
    finally:
        _lock_path(temporary).unlink(missing_ok=True)
        lock.release()


def _lock_path(temporary: Path) -> Path:
    return temporary.with_name(f"{temporary.name}.lock")


def _remove_left_folders(path: Path) -> None:
    """Remove the temporary folders of killed processes: those with a lock that nobody holds."""
    from filelock import FileLock, Timeout

    for lock_path in list(path.parent.iterdir()):
        temporary = lock_path.with_suffix("")
        if lock_path != _lock_path(temporary) or leftover_name(temporary.name) != path.name:
            continue

        lock = FileLock(lock_path, timeout=0)
        try:
            lock.acquire()
        except (Timeout, OSError, NotImplementedError):  # in use, or somebody else's
            continue
        try:
            shutil.rmtree(temporary, ignore_errors=True)
            lock_path.unlink(missing_ok=True)
        finally:
            lock.release()
