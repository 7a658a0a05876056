"""Where else than on this machine's CPU a file can be run: one module a device.

Each has ``SUMMARY``, a line for lists; ``set_up(sources, stage) -> Installation``, which installs what it needs;
``check()``, which raises `UnavailableError` where it cannot be used; and ``open_runner(path, placement) -> Runner``.
"""
