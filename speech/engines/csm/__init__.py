"""CSM-1B, spoken frame by frame for many callers at once.

The rooms, from the files on disk to the sound that leaves:

    source.py      a folder or a hub repository, and what to tell an operator whose files cannot be had
    tensorfile.py  reading safetensors piece by piece
    dims.py        how large a model is, read from either layout's config.json
    weights.py     both layouts into one set of tensors
    device.py      what the rooms share about the device that they compute on
    int8.py        the same tensors in eight bits, where chosen
    model.py       the backbone and the depth decoder
    sampling.py    from logits and a request's own noise to a code
    frames.py      static slots: one frame for every slot at a time
    mimi_weights.py, mimi.py   codes to sound and sound to codes, in a stream
    tokenizer.py, prompt.py    text and sound to the rows the backbone reads
    prefix.py, reader.py       a prompt into a slot, and prompts that were read before
    guards.py      where a take ends
    scheduler.py   who is in which slot: requests join and leave between frames
    engine.py      the Engine protocol over all of it
    verify.py      does this build compute what the original computed?

Importing this package imports no torch; its rooms do.
"""
