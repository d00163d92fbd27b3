"""What a user of Python's openai does: serve_test.ts runs it with the server's address and a key."""

import sys

import openai

url, key = sys.argv[1:]
client = openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0)
model = client.models.list().data[0].id
messages = [{"role": "user", "content": "Hello"}]
options = {"model": model, "max_tokens": 24, "temperature": 0}

answer = client.chat.completions.create(messages=messages, logprobs=True, top_logprobs=2, **options)
text = answer.choices[0].message.content
assert answer.usage.completion_tokens == 24, answer.usage
assert len(answer.choices[0].logprobs.content) == 24
assert answer.choices[0].finish_reason == "length"

stream = client.chat.completions.create(
    messages=messages, stream=True, stream_options={"include_usage": True}, **options
)
chunks = list(stream)
assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == text
assert chunks[-1].usage.completion_tokens == 24

completion = client.completions.create(prompt="Hello", extra_body={"sparsity": 0}, **options)
assert completion.usage.completion_tokens == 24
parts = client.completions.create(prompt="Hello", stream=True, **options)
assert "".join(p.choices[0].text for p in parts) == completion.choices[0].text


def refused(kind, **request):
    try:
        client.chat.completions.create(**{"messages": messages, **options, **request})
    except kind as error:
        return error
    raise AssertionError(f"{kind} expected for {request}")


assert refused(openai.BadRequestError, max_tokens=100_000).code == "context_length_exceeded"
assert refused(openai.BadRequestError, messages=[]).param == "messages"
stranger = openai.OpenAI(base_url=f"{url}/v1", api_key="wrong", max_retries=0)
try:
    stranger.models.list()
    raise AssertionError("a wrong key was let in")
except openai.AuthenticationError as error:
    assert error.code == "invalid_api_key"
print(text, end="")
