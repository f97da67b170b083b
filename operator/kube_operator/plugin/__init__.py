"""`kubectl seawall`: what people do with a cluster, from where they have kubectl.

    cli.py        arguments
    commands.py   what the commands do
    kubectl.py    kubectl as a subprocess
    report.py     what `status` prints (pure)

All goes through kubectl itself: it knows the user's contexts, proxies and ways to log in, and the
plugin has no rights and keeps no credentials of its own. A password is never in an argument.
"""
