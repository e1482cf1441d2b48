"""Errors that a user can resolve."""

import re

# A command to type, which stays as it is; or a flag
FLAG = re.compile(r"((?:python|pip|crackcam) [^:;,]+)|(?<![\w-])--([a-z][a-z-]*)(?![\w.=])")


class UserError(ValueError):
    """A mistake in usage or input, in one line: what is wrong with which value, and what to do about it.

    Messages are written with the flags of the command line, which the scripts print; from Python, ``str(error)`` names
    the settings as fields: ``--batch-size`` is ``batch_size``.

    Examples:
        >>> import crackcam
        >>> try:
        ...     crackcam.TrainConfig(lr=0)
        ... except crackcam.UserError as error:
        ...     print(error)
        lr: 0 is not a number above 0
    """

    @property
    def with_flags(self) -> str:
        """The message as the scripts print it."""
        return super().__str__()

    def __str__(self) -> str:
        return FLAG.sub(lambda found: found[1] or found[2].replace("-", "_"), self.with_flags)
