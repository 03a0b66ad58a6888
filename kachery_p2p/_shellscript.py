"""Where kachery_p2p 0.8 had :class:`ShellScript`."""

from kachery_p2p.client.shellscript import ShellScript, stop_all_scripts

__all__ = ["ShellScript", "stop_all_scripts"]
