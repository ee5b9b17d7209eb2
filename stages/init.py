"""placeholder"""


def init() -> None:
    """x"""
