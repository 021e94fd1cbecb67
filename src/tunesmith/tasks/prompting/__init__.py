"""A task asked in words instead of by a fresh head: as a cloze, by entailment, by likeness, by likelihood.

`templates` puts a text and a label into a sentence, `label_words` says by which words a label goes, `defaults` knows
both for English and Chinese. `asked` is what every way of asking shares; `cloze`, `entailment`, `likeness`,
`likelihood` and `shown_examples` are the ways. What a person says of them, and what is chosen otherwise, meets in
`methods.asking`.
"""
