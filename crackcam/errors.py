"""Errors that a user can resolve."""


class UserError(ValueError):
    """A mistake in usage or input, in one line: what is wrong with which value, and what to do about it.

    The command-line scripts print it and exit with 2; from Python it is raised as it is.

    Examples:
        >>> import crackcam
        >>> try:
        ...     crackcam.TrainConfig(lr=0)
        ... except crackcam.UserError as error:
        ...     print(error)
        --lr: 0 is not a number above 0
    """
