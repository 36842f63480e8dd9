# docker build --tag monkeylib .
# docker run --rm --publish 127.0.0.1:8888:8888 monkeylib                                 # notebooks in JupyterLab
# docker run --rm --volume "$PWD:/work" --workdir /work monkeylib monkeylib answer IMAGE "QUESTION"
#
# torch is the build that pip picks, which on Linux needs gigabytes for CUDA. For an index of smaller CPU builds:
# docker build --build-arg PIP_EXTRA_INDEX_URL=ADDRESS --tag monkeylib .
FROM python:3.12-slim AS base

RUN apt-get update \
    && apt-get install --yes --no-install-recommends git make \
    && rm -rf /var/lib/apt/lists/*
RUN useradd --create-home --uid 1000 monkey \
    && mkdir /monkeylib \
    && chown monkey /monkeylib
USER monkey
WORKDIR /monkeylib


FROM base

ARG PIP_EXTRA_INDEX_URL=""
COPY --chown=monkey . .
RUN make install && rm -rf ~/.cache/pip
ENV PATH=/monkeylib/.venv/bin:$PATH JUPYTER_PREFER_ENV_PATH=1

EXPOSE 8888
# JupyterLab asks for the token that it prints.
CMD ["jupyter", "lab", "--ip=0.0.0.0", "--no-browser", "--notebook-dir=/monkeylib", "--LabApp.default_url=/lab/tree/notebooks"]
