"""Tools of the client, and answers in JSON, on any app: asked for in the prompt, found again in the text.

    schemas.py    JSON schemas of strangers: are they any, and does a value fit
    tags.py       the tags around calls and results, with their nonce; what is done to look-alikes
    texts.py      every sentence that the app is told
    turns.py      earlier calls and results of a dialogue -> text for the app
    reading.py    JSON as models write it -> calls
    scanner.py    an answer's text, however it was cut -> text and blocks
    answer.py     the whole: text in, text and checked calls out, one silent repair
    formats.py    the same for `response_format`

A call is a block of text that begins with `<call-NONCE`. The model learns the nonce in the prompt; whoever else wants
to forge a call has to make the model write it. The threats, and what stands against each:

- *Text that passes through us* (users, tool results, system texts that quote documents, descriptions of tools) may
  hold whole calls. `Tags.neutralise` breaks every tag of this form whatever its nonce, and blots out the
  conversation's own nonce wherever it stands: even somebody who knows it cannot bring it in.
- *Text that does not pass through us* (what Dify retrieves, what the app's own tools return) can be echoed by the
  model. It does not know the nonce: 38 random bits, other ones in every conversation. With any other nonce, or none,
  a block is text and stays text: it is never repaired into a call, for that would turn an echo into a question.
- *The nonce leaking* would arm such text. It stands only inside calls, which are cut out of the answer; where the
  model writes it elsewhere, also into the arguments of a call, it is blotted out. Not covered: a model that is talked
  into spelling it in disguise (letters apart, base64); it is of use only in that conversation, and only for text of the
  second kind.
- *Results that the model invents*, the commonest failure: nothing counts that follows prose after a call.
- *Talking the model into a real call* is beyond any delimiter: names and arguments are checked against what the client
  declared, and what a call may do is the client's business.

The nonce is `Tags.of(key, salt)`: a keyed digest of a random salt, kept with the conversation's record. So it is the
same for all turns of a conversation, another one for every other conversation of the same user, and who reads the
store learns nothing. A conversation without a salt (new, forgotten, begun without tools) gets one, and is told.
"""
