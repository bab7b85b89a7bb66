"""Every command of ``unildiff`` and the function behind it.

To add a command, write a function in a module of this package and name it here. Its help, arguments and defaults are read
from its docstring and signature (see ``unildiff.cli.parsing``). ``unildiff --help`` imports all of these modules, so they
import heavy packages only inside their functions.
"""

COMMANDS = {
    "fit": "trainer.fit",
    "validate": "trainer.validate",
    "test": "trainer.test",
    "predict": "trainer.predict",
    "restore": "restore.restore",
    "serve": "serve.serve",
    "score": "score.score",
    "table": "table.table",
    "compare": "compare.compare",
    "leaderboard": "leaderboard.leaderboard",
    "figures": "figures.figures",
    "report": "report.report",
    "plan": "plan.plan",
    "export": "export.export",
    "data list": "data.list_",
    "data layout": "data.layout",
    "data check": "data.check",
    "data pack": "data.pack",
    "data synthesize": "data.synthesize",
    "data caption": "data.caption",
    "data download": "data.download",
    "data sample": "data.sample",
    "data convert": "data.convert",
    "data photographs": "data.photographs",
}
GROUPS = {"data": "List, check, prepare and download datasets; `unildiff data --help` lists the commands."}
