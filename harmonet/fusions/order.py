"""The order in which a fusion goes through the platforms, where it predicts them one after the other."""

from collections.abc import Mapping, Sequence

from harmonet.errors import NotFoundError, ShapeError
from harmonet.fusion import Source


def in_turn(fusion: str, sources: Mapping[str, Source], target: str, order: Sequence[str] | None = None) -> list[str]:
    """The platforms before the target, in the order asked for; without one by grid, coarse to fine, then by name.

    No publication states an order; this one is our choice. The target may stand anywhere in `order` or be left out,
    so that one order serves the fusions of several targets.

    Args:
        fusion: What the fusion is called, for messages.
        sources: Platform to measured sizes.
        target: The platform that comes last.
        order: Platforms, each but the target once.

    Raises:
        ShapeError: There is no other platform.
        NotFoundError: The order leaves out a platform, has one twice or one that is not known.

    >>> fine, coarse = Source((28, 19, 19, 19), {}), Source((28, 11, 11, 11), {})
    >>> in_turn("cpm", {"sa": fine, "b_st": coarse, "a_st": coarse, "t": coarse}, "t")
    ['a_st', 'b_st', 'sa']
    """
    others = sorted((p for p in sources if p != target), key=lambda p: (sources[p].prediction[1:], p))
    if not others:
        raise ShapeError(
            f"{fusion} predicts other platforms on the way to its target, found only {target}: add a platform, or "
            "train that network without a fusion."
        )
    if order is None:
        return others
    asked = [platform for platform in order if platform != target]
    if sorted(asked) != sorted(others):
        raise NotFoundError(
            f"{fusion} was asked for the order {', '.join(order) or 'of nothing'}, but goes through "
            f"{', '.join(others)} on the way to {target}: name each of them once."
        )
    return asked
