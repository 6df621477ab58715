"""Reads the split and the class of each image from the sub-folders of a folder or zip."""

from pathlib import Path
from sys import intern

from spn.config import InputError
from spn.data.layout import SPLITS, Split

NAMES_SHOWN = 5


def path_parts(name: str) -> tuple[str, ...]:
    """Split a relative POSIX path as PurePosixPath does, in a tenth of the time; there may be millions."""
    return tuple(part for part in name.split("/") if part not in ("", "."))


def by_split(names: tuple[str, ...], where: Path) -> dict[Split, list[str]]:
    """Sort names by the sub-folders train, validation and test, which may lie in one common folder.

    Without such sub-folders all images belong to the training split. Raises InputError, naming the source `where`, for
    images outside them.
    """
    return {
        split: [name for name in names if _lies_in(name, folder)]
        for split, folder in _split_folders(names, where).items()
    }


def class_labels(names: tuple[str, ...], where: Path, num_classes: int) -> dict[str, int]:
    """Return the class of each name: the index of its class folder, directly below the split's, in sorted order.

    Raises InputError if an image lies in no class folder, if the training split has not `num_classes` of them, or if
    another split has different ones.
    """
    folders = _split_folders(names, where)
    found = {split: _class_names(names, folder, where) for split, folder in folders.items()}
    classes = sorted(set(found["train"].values()))
    if len(classes) != num_classes:
        raise InputError(
            f"{where.joinpath(*folders['train'])}: expected {num_classes} class folders, as data.num_classes says, "
            f"got {len(classes)}: {_shown(classes)}{_lying_in_the_only(classes, names, folders['train'])}"
        )
    for split, folder in folders.items():
        _check_same(classes, set(found[split].values()), where.joinpath(*folder))
    labels = {name: label for label, name in enumerate(classes)}
    return {name: labels[class_name] for of_split in found.values() for name, class_name in of_split.items()}


def class_folders(names: tuple[str, ...], where: Path) -> tuple[str, ...]:
    """Return the folders that can be classes, sorted: several, with every image in one, and the same in every split.

    Returns nothing if there are no such folders. Raises InputError as `by_split` does.
    """
    folder = _split_folders(names, where)["train"]
    try:
        found = tuple(sorted(set(_class_names(names, folder, where).values())))
        class_labels(names, where, len(found))
    except InputError:
        return ()
    return found if len(found) > 1 else ()


def _split_folders(names: tuple[str, ...], where: Path) -> dict[Split, tuple[str, ...]]:
    """Find the folder of each split, as the parts of its path; without split folders, all images are for training."""
    # One after the other: the parts of a million names are not for memory.
    tops = {path_parts(name)[0] for name in names}
    has_one_top = len(tops) == 1 and not tops & set(SPLITS) and all(len(path_parts(name)) > 2 for name in names)
    top = tuple(tops) if has_one_top else ()
    heads = {path_parts(name)[1] for name in names} if has_one_top else tops
    if not heads & set(SPLITS):
        return {"train": top}
    if "train" not in heads:
        raise InputError(f"{where}: expected images in train/, beside those in {', '.join(sorted(heads))}, found none")
    if heads - set(SPLITS):
        raise InputError(
            f"{where}: expected all images in train/, validation/ or test/, got {', '.join(sorted(heads))}"
        )
    return {split: (*top, split) for split in SPLITS if split in heads}


def _lies_in(name: str, folder: tuple[str, ...]) -> bool:
    return path_parts(name)[: len(folder)] == folder


def _class_names(names: tuple[str, ...], folder: tuple[str, ...], where: Path) -> dict[str, str]:
    inside, depth = [name for name in names if _lies_in(name, folder)], len(folder)
    if outside := [name for name in inside if len(path_parts(name)) < depth + 2]:
        raise InputError(
            f"{where}: expected each image in the folder of its class, as data.num_classes is stated, "
            f"got {_shown(outside)}"
        )
    return {name: intern(path_parts(name)[depth]) for name in inside}


def _lying_in_the_only(classes: list[str], names: tuple[str, ...], folder: tuple[str, ...]) -> str:
    """Name images directly in the only class folder: one stray image turns the common folder into a class."""
    direct = [name for name in names if _lies_in(name, folder) and len(path_parts(name)) == len(folder) + 2]
    return f", with {_shown(direct)} directly in it" if len(classes) == 1 and direct else ""


def _check_same(classes: list[str], found: set[str], folder: Path) -> None:
    if new := found.difference(classes):
        raise InputError(f"{folder}: expected the class folders that train has, got also {_shown(sorted(new))}")
    if missing := set(classes) - found:
        raise InputError(f"{folder}: expected the class folders that train has, got no {_shown(sorted(missing))}")


def _shown(names: list[str]) -> str:
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return ", ".join(names[:NAMES_SHOWN]) + more
