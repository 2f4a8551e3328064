"""The built-in pair: two small language models on worksheets, shipped with the package."""
