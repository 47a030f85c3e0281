"""Layers that several networks and fusions share, and the connection networks, offered through the visitors' hook."""

from harmonet.hookspecs import hookimpl
from harmonet.registry import ConnectionEntry


@hookimpl
def harmonet_connections() -> list[ConnectionEntry]:
    """The cards of the built-in connection networks."""
    return [
        ConnectionEntry(
            name="two_convs",
            build="harmonet.blocks.connection:ConnectionNet",
            summary="two 3D convolutions of kernel 3, padding and stride resolved from measured sizes",
            published="two stacked 3D convolutions",
            our_choice="width, kernels, the ReLU between them",
        ),
    ]
