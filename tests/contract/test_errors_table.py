"""The tree drawn in ``errors.py`` is the tree that is there."""

from __future__ import annotations

import inspect
import re

from bye_audit import errors

LINE = re.compile(r"^(?P<indent> +)(?P<name>\w+Error)(?: \((?P<extra>\w+)\))? +(?P<code>\d+)\b")


def _drawn() -> dict[str, tuple[str, str | None, int]]:
    assert errors.__doc__ is not None
    drawn: dict[str, tuple[str, str | None, int]] = {}
    parents: list[tuple[int, str]] = []
    for line in errors.__doc__.splitlines():
        match = LINE.match(line)
        if match is None:
            continue
        depth, name = len(match["indent"]), match["name"]
        parents = [entry for entry in parents if entry[0] < depth]
        drawn[name] = (
            parents[-1][1] if parents else "Exception",
            match["extra"],
            int(match["code"]),
        )
        parents.append((depth, name))
    return drawn


def test_drawing_and_classes_agree() -> None:
    drawn = _drawn()
    classes = {
        name: item
        for name, item in vars(errors).items()
        if inspect.isclass(item) and issubclass(item, errors.ByeAuditError)
    }
    assert set(drawn) == set(classes)
    for name, (parent, extra, code) in drawn.items():
        bases = [base.__name__ for base in classes[name].__bases__]
        assert bases == [parent, extra] if extra else bases == [parent], name
        assert classes[name].exit_code == code, name


def test_statuses_are_those_of_the_design() -> None:
    assert errors.ConfigError.exit_code == 2
    assert errors.InputError.exit_code == 3
    assert errors.TableError.exit_code == 4
    assert errors.ModelError.exit_code == 5
    assert errors.NumericError.exit_code == 6
    assert errors.MissingDependencyError.exit_code == 7
    assert errors.InterruptedStageError.exit_code == 130


def test_an_error_carries_its_sentence_and_what_to_do() -> None:
    error = errors.StageNotRunError("No scores.", hint="bye-audit score a")
    assert str(error) == "No scores."
    assert error.hint == "bye-audit score a"
