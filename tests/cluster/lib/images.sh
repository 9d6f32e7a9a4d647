# Image archives in Docker's format, made without Docker. `docker load`, `kind load image-archive` and
# `ctr images import` all take them.

NONROOT=65532

# One layer: the program at /usr/bin/NAME, the shared libraries that it was linked with, CA certificates and a user.
image_archive() { # REF BINARY TAR
  local ref=$1 binary=$2 archive=$3 work name
  [ -x "$binary" ] || { echo "cluster: $binary is not a program; build it first" >&2; return 66; }
  name=$(basename "$binary")
  work=$(mktemp -d)
  mkdir -p "$work/root/usr/bin" "$work/root/etc/ssl/certs" "$work/root/tmp" "$work/root/home/nonroot"
  cp "$binary" "$work/root/usr/bin/$name"
  copy_libraries "$binary" "$work/root"
  [ ! -f /etc/ssl/certs/ca-certificates.crt ] || cp /etc/ssl/certs/ca-certificates.crt "$work/root/etc/ssl/certs/"
  printf 'root:x:0:0:root:/:/sbin/nologin\nnonroot:x:%s:%s:nonroot:/home/nonroot:/sbin/nologin\n' $NONROOT $NONROOT >"$work/root/etc/passwd"
  printf 'root:x:0:\nnonroot:x:%s:\n' $NONROOT >"$work/root/etc/group"
  echo 'hosts: files dns' >"$work/root/etc/nsswitch.conf"
  chmod 1777 "$work/root/tmp"
  pack "$work" "$ref" "\"Entrypoint\":[\"/usr/bin/$name\"],\"User\":\"$NONROOT:$NONROOT\",\"WorkingDir\":\"/\",\"Env\":[\"PATH=/usr/bin\"],\"Labels\":$(labels "$name")" "$archive"
  rm -rf "$work"
}

labels() { # NAME
  printf '{"org.opencontainers.image.title":"%s","org.opencontainers.image.licenses":"Apache-2.0"' "$1"
  [ -z "${IMAGE_VERSION:-}" ] || printf ',"org.opencontainers.image.version":"%s"' "$IMAGE_VERSION"
  [ -z "${IMAGE_REVISION:-}" ] || printf ',"org.opencontainers.image.revision":"%s"' "$IMAGE_REVISION"
  printf '}'
}

# Libraries go where the dynamic linker looks for them; a static program has none. glibc loads its name-service
# modules by itself, so the linker does not list them.
copy_libraries() { # BINARY ROOT
  local library
  { ldd "$1" 2>/dev/null || true; } | grep -oE '/[^ ]+' | while read -r library; do
    mkdir -p "$2$(dirname "$library")"
    cp -L "$library" "$2$library"
  done || true
}

# Sorted names, no times and no owners: the same inputs give the same bytes.
pack() { # WORK REF CONFIG ARCHIVE
  local work=$1 ref=$2 config=$3 archive=$4 digest flags=(--sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner)
  tar "${flags[@]}" -C "$work/root" -cf "$work/layer.tar" .
  digest=$(sha256sum "$work/layer.tar" | cut -d' ' -f1)
  printf '{"architecture":"%s","os":"linux","config":{%s},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}' \
    "$(architecture)" "$config" "$digest" >"$work/config.json"
  printf '[{"Config":"config.json","RepoTags":["%s"],"Layers":["layer.tar"]}]' "$ref" >"$work/manifest.json"
  mkdir -p "$(dirname "$archive")"
  tar "${flags[@]}" -C "$work" -cf "$archive.part" manifest.json config.json layer.tar
  mv -f "$archive.part" "$archive"
}

architecture() { case "$(uname -m)" in x86_64) echo amd64 ;; aarch64) echo arm64 ;; *) uname -m ;; esac; }

# What the cluster itself runs: pause holds a Pod's network, busybox makes and removes volume folders.
base_images() {
  local work
  work=$(mktemp -d)
  mkdir -p "$work/root/bin" "$work/root/tmp"
  cp /bin/busybox "$work/root/bin/"
  local applet
  for applet in $(/bin/busybox --list | grep -vx busybox); do ln -sf busybox "$work/root/bin/$applet"; done
  pack "$work" dc.local/busybox:1 '"Cmd":["sh"],"Env":["PATH=/bin"]' "$DIR/images/busybox.tar"
  rm -rf "$work"

  work=$(mktemp -d)
  mkdir -p "$work/root/bin"
  # busybox again, under a name that makes it wait for ever: no C compiler is needed.
  cp /bin/busybox "$work/root/bin/busybox"
  pack "$work" dc.local/pause:1 '"Entrypoint":["/bin/busybox","tail","-f","/dev/null"]' "$DIR/images/pause.tar"
  rm -rf "$work"

  work=$(mktemp -d)
  mkdir -p "$work/root/bin" "$work/root/tmp"
  cp "$BIN/coredns" "$work/root/bin/"
  pack "$work" dc.local/coredns:1 '"Entrypoint":["/bin/coredns"]' "$DIR/images/coredns.tar"
  rm -rf "$work"
  load_images "$DIR"/images/{busybox,pause,coredns}.tar
}

load_images() { # TAR...
  local archive
  for archive in "$@"; do containerd_ctl images import --no-unpack "$archive" >/dev/null; done
}
