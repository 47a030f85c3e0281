"""Which channels belong to which SH order, for one shell or several."""

from harmonet import sh
from harmonet.errors import ShapeError


def order_widths(channels: int, shells: int = 1) -> list[int]:
    """Numbers of coefficients of each order, shell after shell.

    Raises:
        ShapeError: The channels are not an even SH series for each of the shells.

    >>> order_widths(28)
    [1, 5, 9, 13]
    >>> order_widths(12, shells=2)
    [1, 5, 1, 5]
    """
    if shells < 1 or channels % shells:
        raise ShapeError(
            f"{channels} channels do not divide into {shells} shells: the number of channels is that of the shells "
            "times the coefficients of one even SH series."
        )
    slices = sh.order_slices(sh.order_of(channels // shells)).values()
    return [s.stop - s.start for s in slices] * shells
