"""A server that speaks OpenAI's chat API about images: `monkeylib serve`.

limits          how much a client may send and wait for
chat_requests   the body of a request, checked, as messages with images
chat_responses  answers and parts of answers, as the API writes them
engine          one answer after the other, the others in a queue
app             the routes, on aiohttp
"""
