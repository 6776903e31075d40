"""How an option is declared, and how options from the shell, YAML or Python become a config.

One declaration serves all three: the shell shows its help and default, a recipe is checked against it, and the
Python call takes it as a keyword.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any, TypeVar, cast

from qcaps.errors import UsageError, quoted
from qcaps.registry import Registry, near_matches

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    Config = TypeVar("Config", bound=DataclassInstance)

# Files and generators hold a seed in 64 bits, one of them the sign.
LARGEST_SEED = (1 << 63) - 1


@dataclass(frozen=True)
class About:
    """What is known of an option besides its name, type and default.

    Parameters
    ----------
    help
        One sentence for ``--help``, with the unit.
    names, also
        The registry its value must be in, and values beside it.
    parse
        Turns text or a number into the value; raises ValueError with the reason.
    least, most
        Bounds, both allowed.
    metavar
        What stands for the value in ``--help``.
    """

    help: str
    names: Registry | None = None
    also: tuple[str, ...] = ()
    parse: Callable[[object], object] | None = None
    least: float | None = None
    most: float | None = None
    metavar: str = ""


def option(
    default: object,
    help: str,
    *,
    names: Registry | None = None,
    also: tuple[str, ...] = (),
    parse: Callable[[object], object] | None = None,
    least: float | None = None,
    most: float | None = None,
    metavar: str = "",
) -> Any:
    """Declare one option as a dataclass field; see :class:`About`."""
    about = About(help, names, also, parse, least, most, metavar)
    return dataclasses.field(default=default, metadata={"about": about})


def about(field: dataclasses.Field[Any]) -> About:
    """Give what a config field declares of itself."""
    return cast("About", field.metadata["about"])


def configure(config: type[Config], options: Mapping[str, object], *, where: str = "") -> Config:
    """Make a config of the given options, defaults for the rest.

    Parameters
    ----------
    config
        One of the classes in `qcaps.config`.
    options
        Values by name, in any of the spellings ``batch-size`` and ``batch_size``; text is converted.
    where
        The place of the options, for messages.

    Raises
    ------
    UsageError
        If a name is unknown (near matches are shown) or given in two spellings, or a value does not fit.
    """
    fields = {f.name: f for f in dataclasses.fields(config)}
    values: dict[str, object] = {}
    for spelling, value in options.items():
        name = spelling.replace("-", "_")
        if name not in fields:
            known = tuple(shell_name(n) for n in fields)
            raise UsageError(
                f"unknown option {quoted(spelling)}",
                where=where,
                do=f"{near_matches(shell_name(name), known)}known are {', '.join(known)}",
            )
        if name in values:
            raise UsageError("the option is given twice", where=_place(name, where))
        values[name] = _checked(fields[name], value, where)
    return _typed(config, values, where)


def parse_percent(value: object) -> Decimal:
    """Read a percentage exactly as typed.

    Raises
    ------
    ValueError
        If it is not a number from 0 to 100 with at most 20 decimals.
    """
    text = str(value)
    try:
        percent = Decimal("NaN" if "_" in text else text)  # Decimal reads 0_2 as 2
    except InvalidOperation:
        percent = Decimal("NaN")
    exponent = percent.as_tuple().exponent
    if not isinstance(exponent, int) or abs(exponent) > 20 or not 0 <= percent <= 100:
        raise ValueError(f"'{text[:40]}' is not a percentage from 0 to 100 with at most 20 decimals")
    return percent


def shell_name(name: str) -> str:
    """Spell a Python name as on the shell and in YAML."""
    return name.replace("_", "-")


def _checked(field: dataclasses.Field[Any], value: object, where: str) -> object:
    """Apply what the field declares: its registry and its parser; pydantic would read True as 1."""
    declared, place = about(field), _place(field.name, where)
    if isinstance(value, bool) and not isinstance(field.default, bool):
        raise UsageError(f"{quoted(value)} is for switches; this option takes another value", where=place)
    if declared.names is not None and value != field.default and value not in declared.also:
        declared.names.entry(str(value), where=place)
    if declared.parse is None or value == field.default:
        return value
    try:
        return declared.parse(value)
    except ValueError as error:
        raise UsageError(str(error), where=place) from error


def _typed(config: type[Config], values: dict[str, object], where: str) -> Config:
    """Convert to the declared types and check the bounds."""
    from pydantic import TypeAdapter, ValidationError

    try:
        made = TypeAdapter(config).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]) if first["loc"] else ""
        raise UsageError(f"{quoted(first['input'])}: {first['msg'].lower()}", where=_place(name, where)) from error
    for field in dataclasses.fields(config):
        declared, value = about(field), getattr(made, field.name)
        if value is None or isinstance(value, str):
            continue
        if isinstance(value, float) and not math.isfinite(value):
            raise UsageError(f"{quoted(value)} is not a finite number", where=_place(field.name, where))
        if declared.least is not None and value < declared.least:
            raise UsageError(f"{quoted(value)} is below {declared.least:g}", where=_place(field.name, where))
        if declared.most is not None and value > declared.most:
            raise UsageError(f"{quoted(value)} is above {declared.most:g}", where=_place(field.name, where))
    return made


def _place(name: str, where: str) -> str:
    place = f"--{shell_name(name)}" if name else ""
    return f"{where} {place}".strip() if where else place
