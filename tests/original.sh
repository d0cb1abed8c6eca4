#!/bin/sh
# Builds the Go program that this one succeeds, to be measured beside it: DIRECTORY/raftexample,
# from the sources that Debian's golang-etcd-server-dev installs. Takes nothing from the network.
set -eu
directory=${1:?usage: tests/original.sh DIRECTORY}
gopath=/usr/share/gocode
package=go.etcd.io/etcd/contrib/raftexample
if ! command -v go >/dev/null || ! [ -d "$gopath/src/$package" ]; then
	echo "the original cannot be built: apt-get install golang-go golang-etcd-server-dev" >&2
	exit 1
fi
mkdir -p "$directory"
GO111MODULE=off GOPATH=$gopath GOCACHE=$directory/cache GOFLAGS= \
	go build -o "$directory/raftexample" "$package"
