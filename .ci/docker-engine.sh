#!/bin/bash
# Gives a bare Debian machine a running Docker Engine, its compose and buildx plugins, and local/debian:bookworm, a base image
# made on the spot: there need be neither systemd nor a registry of images. As root. What is there already is left alone.
set -euo pipefail

image=local/debian:bookworm
suite=bookworm
plugins_from=trixie  # bookworm has neither plugin; these need nothing newer than bookworm's C library
plugins=/usr/libexec/docker/cli-plugins
log=/var/log/dockerd.log

missing_packages() {
  command -v dockerd >/dev/null || echo docker.io
  command -v iptables >/dev/null || echo iptables
  command -v mmdebstrap >/dev/null || echo mmdebstrap
}

install_packages() {
  local packages
  mapfile -t packages < <(missing_packages)
  [ ${#packages[@]} -eq 0 ] && return
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends ca-certificates "${packages[@]}" >/dev/null
}

# Unpacked beside the system's packages, from lists of their own, so that nothing else is upgraded.
install_plugins() {
  [ -x $plugins/docker-compose ] && [ -x $plugins/docker-buildx ] && return
  local work
  work=$(mktemp -d)
  mkdir -p "$work/lists/partial"
  sed -e "s/$suite-updates//" -e "s/$suite/$plugins_from/" -e '/^$/q' /etc/apt/sources.list.d/debian.sources > "$work/sources.sources"
  local apt=(apt-get -qq -o "Dir::Etc::sourcelist=$work/sources.sources" -o Dir::Etc::sourceparts=/dev/null
             -o "Dir::State::lists=$work/lists" -o APT::Sandbox::User=root)
  "${apt[@]}" update
  (cd "$work" && "${apt[@]}" download docker-compose docker-buildx)
  for package in "$work"/*.deb; do dpkg-deb --extract "$package" "$work/root"; done
  mkdir -p $plugins
  cp "$work/root$plugins/"* $plugins/
  rm -rf "$work"
}

start_engine() {
  docker info >/dev/null 2>&1 && return
  # An engine that was killed left its pid files; another process may have the number by now.
  pgrep -x dockerd >/dev/null || rm -f /var/run/docker.pid /run/docker/containerd/containerd.pid
  setsid dockerd >$log 2>&1 </dev/null &
  for _ in $(seq 60); do
    docker info >/dev/null 2>&1 && return
    sleep 0.5
  done
  echo "docker-engine: the engine does not answer; the end of $log:" >&2
  tail -20 $log >&2
  exit 1
}

make_image() {
  docker image inspect $image >/dev/null 2>&1 && return
  local root certificates=/etc/ssl/certs/ca-certificates.crt
  root=$(mktemp -d)
  mmdebstrap --quiet --variant=minbase --include=python3,python3-venv,ca-certificates $suite "$root"
  # A build reaches the package sources as this machine does, with the certificates that it trusts.
  cp $certificates "$root$certificates"
  rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/*
  tar -C "$root" -c . | docker import - $image >/dev/null
  rm -rf "$root"
}

install_packages
install_plugins
start_engine
make_image
echo "Docker Engine $(docker version --format '{{.Server.Version}}'), compose $(docker compose version --short), $image"
