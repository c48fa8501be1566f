#!/bin/sh
# Install one lock file, every hash checked, and CryptoTrace itself, into the environment of $PYTHON.
# Caches stay inside the clone, so that nothing outside it is touched.
set -eu
lock=$1
cache=$(pwd)/.cache
export PIP_CACHE_DIR="$cache/pip" UV_CACHE_DIR="$cache/uv" PIP_DISABLE_PIP_VERSION_CHECK=1

"$PYTHON" -m pip install --quiet --require-hashes -r requirements-install.lock

# uv takes seconds where pip takes a minute; pip does where uv cannot run or cannot reach the index as pip does.
if ! "$PYTHON" -m uv pip install --quiet --python "$PYTHON" --require-hashes -r "$lock"; then
    echo "uv could not install; using pip, which takes longer."
    "$PYTHON" -m pip install --quiet --require-hashes -r "$lock"
fi
"$PYTHON" -m pip install -qq --no-deps --no-build-isolation --editable .

# uv leaves no bytecode, and each of the dozen processes of a demo would compile the same libraries at its first start, or
# at every start where PYTHONDONTWRITEBYTECODE is set. Importing once what they import compiles a quarter of all files.
unset PYTHONDONTWRITEBYTECODE
"$PYTHON" -c "
import cryptotrace_dagster.api.app, cryptotrace_dagster.assets.detection, cryptotrace_dagster.dashboard.charts
import dagster._daemon.controller, dagster._grpc.server, dagster_webserver.webserver, streamlit.web.bootstrap
import sklearn.ensemble, statsmodels.tsa.statespace.kalman_filter
"
