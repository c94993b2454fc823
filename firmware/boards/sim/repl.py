# A prompt into a running simulated device: each line from the rig is evaluated between two tasks, its result sent back.
# Standard output is the rig's wire, so print() is the one given here.
import asyncio
import io
import sys

from rig_wire import DATA

from boards.sim import wire

_CHANNEL = "repl"


class Repl:
    """Evaluates in `names`, where `device` appears as soon as the model has made it."""

    def __init__(self, board):
        self.names = {"board": board, "asyncio": asyncio, "print": self._print}
        wire.on(_CHANNEL, self._on_line)
        self._remember_device(board.identity["model"])

    def _remember_device(self, model):
        if model == "pid":
            from tags.pid import Pid as Made
        else:
            from common.device import Device as Made

        made = Made.__init__

        def remembered(this, *arguments, **keywords):
            self.names["device"] = this
            made(this, *arguments, **keywords)
            if hasattr(this, "journal"):
                self._watch(this.journal)

        Made.__init__ = remembered

    def _watch(self, journal):
        stored, told = journal.stored, [0]

        def watched(epoch, through):
            stored(epoch, through)
            if through > told[0]:
                told[0] = through
                self._print("(the gateway has stored the records below %d)" % through)

        journal.stored = watched

    def _on_line(self, kind, line):
        text = line.decode().strip()
        try:
            if text.startswith("await "):
                # The device goes on meanwhile.
                asyncio.create_task(self._finish(eval(text[6:], self.names)))
                return
            try:
                code = compile(text, "<prompt>", "eval")
            except SyntaxError:
                exec(compile(text, "<prompt>", "exec"), self.names)
                value = None
            else:
                value = eval(code, self.names)
            self._show(value)
        except Exception as error:
            self._tell(error)

    async def _finish(self, coroutine):
        try:
            self._show(await coroutine)
        except Exception as error:
            self._tell(error)

    def _show(self, value):
        # Even nothing is said: the prompt waits for it.
        self._print("" if value is None else repr(value), end="" if value is None else "\n")

    def _print(self, *values, end="\n"):
        wire.send(DATA, _CHANNEL, (" ".join(str(value) for value in values) + end).encode())

    def _tell(self, error):
        text = io.StringIO()
        sys.print_exception(error, text)
        self._print(text.getvalue(), end="")
