"""Where the bytes come from: files, names and formats. Imports neither `tinydiff` nor `tinydiff_kernels`."""
