"""SERVE: an OpenAI-compatible server whose requests each weigh the objectives anew.

`app` has the routes, `fields` reads what a request asks for, `decoder_thread` steps the decoder,
`text` turns tokens into what a client may see of them, and `replies` writes it down in the shapes
of the `openai` package.
"""
