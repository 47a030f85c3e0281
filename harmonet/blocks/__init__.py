"""Layers that several networks and fusions share, and the connection networks, offered through the visitors' hook."""

from harmonet.hookspecs import hookimpl
from harmonet.registry import CONNECTIONS, ConnectionEntry


@hookimpl
def harmonet_connections() -> list[ConnectionEntry]:
    """The cards of the built-in connection networks."""
    return [
        ConnectionEntry(
            name="two_convs",
            build="harmonet.blocks.connection:ConnectionNet",
            summary="two 3D convolutions, kernel, padding and stride resolved from measured sizes",
            published="two stacked 3D convolutions",
            our_choice="width, kernels, the ReLU between them; how several features and unlike grids are joined",
        ),
    ]


def connection_card(name: str) -> ConnectionEntry:
    """The card of a connection network, for fusions, which may not ask the plugins above them.

    Built-in ones are known also where nobody has loaded plugins, such as to a fusion that is built by hand.
    """
    for entry in harmonet_connections():
        CONNECTIONS.register(entry, "harmonet")  # the same entry twice is no harm
    return CONNECTIONS.get(name)
