"""What ``unildiff data ...`` does: check, download, caption, synthesize, sample and pack."""
