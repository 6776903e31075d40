"""Groups: the sites that share one bit width, each with a scale of its own."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from qcaps.capsules.sites import Group as GroupKind
from qcaps.capsules.sites import group_of
from qcaps.errors import UsageError, quoted
from qcaps.quantization.formats import Float32
from qcaps.registry import near_matches

# Site → width, total bits; 32 is float32.
Widths = Mapping[str, int]


@dataclass(frozen=True)
class Group:
    """Sites that share one width.

    Parameters
    ----------
    name
        ``stage[.layer].role``, with ``@iteration`` where iterations are apart.
    kind
        ``weights``, ``activations`` or ``routing``.
    sites
        At least one.
    values
        Values of the weight, or per image; an array of several iterations counts once.
    """

    name: str
    kind: GroupKind
    sites: tuple[str, ...]
    values: int

    @property
    def is_weight(self) -> bool:
        """Tell whether the file holds these values."""
        return self.kind == "weights"


def fine_groups(
    weights: Mapping[str, int],
    arrays: Mapping[str, int],
    allowed: Mapping[str, tuple[int, ...]],
    *,
    per_iteration: bool,
) -> tuple[Group, ...]:
    """Make a group of every weight, and of every array.

    Parameters
    ----------
    weights, arrays
        Site → number of values, in execution order.
    allowed
        Site → the widths it may have; iterations that may have different ones are apart.
    per_iteration
        Whether all routing iterations are apart.
    """
    groups = [Group(site, "weights", (site,), values) for site, values in weights.items()]
    together: dict[tuple[str, object], list[str]] = {}
    for site in arrays:
        together.setdefault((site.split("@", 1)[0], site if per_iteration else allowed[site]), []).append(site)
    parts = Counter(array for array, _ in together)
    for (array, _), sites in together.items():
        name = array if parts[array] == 1 else sites[0]
        # An array counts once, at its widest; of several parts each counts for its share.
        groups.append(Group(name, group_of(sites[0]), tuple(sites), math.ceil(arrays[sites[0]] / parts[array])))
    return tuple(groups)


def allowed_widths(
    sites: Iterable[str], packed: Sequence[int], *, only: Sequence[int], pins: Sequence[tuple[str, int]]
) -> dict[str, tuple[int, ...]]:
    """List the widths that every site may have, ascending.

    Parameters
    ----------
    sites
        Every site of the network.
    packed
        Widths that the rounding can pack and the user allows, ascending.
    only
        The user's own list (``--widths``); empty for all. With it, float32 is out.
    pins
        Pattern → the one width of all sites that match it (``--pin``); a later pin wins. A pattern without
        ``@iteration`` matches every iteration.

    Raises
    ------
    UsageError
        If a pattern matches no site.
    """
    free = tuple(bits for bits in packed if bits in only) if only else (*packed, Float32.bits)
    found = dict.fromkeys(sites, free)
    for pattern, bits in pins:
        matched = [s for s in found if fnmatchcase(s, pattern) or fnmatchcase(s.split("@", 1)[0], pattern)]
        if not matched:
            raise UsageError(
                f"{quoted(pattern)} matches no site",
                where="--pin",
                do=f"{near_matches(pattern, tuple(found))}`qcaps inspect` lists them",
            )
        found.update(dict.fromkeys(matched, (bits,)))
    return found
