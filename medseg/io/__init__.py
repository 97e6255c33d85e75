"""Reading and writing: files to `Volume` and `LabelVolume`, and back.

Every reader keeps one promise: the right voxels at the right place, or a refusal with a stable
code (`docs/errors.md`). What a header claims is held against the size of the file and of the
machine before anything is allocated. Every writer leaves a whole file or none.
"""
