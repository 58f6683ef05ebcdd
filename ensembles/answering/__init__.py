"""From a question to a cited answer: what pipelines and the file search of any chat model are made of."""
