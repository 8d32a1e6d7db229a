"""``serve`` as a service of the system: systemd, launchd, the Windows task scheduler.

``definition`` says what is to run; ``systemd``, ``launchd`` and ``task_scheduler`` render it (pure);
``finding`` fills a definition in from this machine; ``applying`` writes files and
runs the managers' own programs.
"""
