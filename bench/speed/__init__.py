"""What the denoiser costs beside plain training: ``python -m bench.speed``.

`cases` says what is measured, `workload` builds it, `variants` are the training steps compared,
`naive` the two obvious ways for scale, `timing` and `memory` the two measurements, `measurement`
one row of the table, `table` the JSON and the Markdown.
"""
