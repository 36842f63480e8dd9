"""A page in the browser that shows what tiles and their LoRA are worth: `monkeylib demo`.

    app       the routes: the page, its files, and what it asks for
    requests  bodies of the page's requests, checked
    static/   the page: HTML, style and script; it loads nothing from elsewhere

What it shows is computed by `monkeylib.explore`, and the chat API of `monkeylib.serving` is there, too. The
page sends images as data URLs: no path and no address of a browser is opened.
"""
