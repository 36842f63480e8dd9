"""What nbval doesn't compare: renderings of an output whose plain text it does compare."""


def pytest_collectstart(collector):
    """Leave HTML and vector renderings out of nbval's comparison."""
    if hasattr(collector, "skip_compare"):
        collector.skip_compare += ("text/html", "image/svg+xml", "stderr")
