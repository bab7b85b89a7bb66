"""Commands of the ``unildiff`` entry point, one file a group."""
