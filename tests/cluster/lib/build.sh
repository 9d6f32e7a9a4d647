# Builds the programs from Go modules into $BIN. A stamp beside each says what it was made from, so that a changed go.mod
# or version rebuilds it and nothing else does.

STAMPS=$BIN/.made-from

# Programs of this module's go.mod, as NAME=PACKAGE.
CONTROL_PLANE=(
  etcd=go.etcd.io/etcd/server/v3
  kube-apiserver=k8s.io/kubernetes/cmd/kube-apiserver
  kube-controller-manager=k8s.io/kubernetes/cmd/kube-controller-manager
  kube-scheduler=k8s.io/kubernetes/cmd/kube-scheduler
  kubectl=k8s.io/kubernetes/cmd/kubectl
)
NODE=(
  kubelet=k8s.io/kubernetes/cmd/kubelet
  kube-proxy=k8s.io/kubernetes/cmd/kube-proxy
)
# Programs with module graphs of their own, which would not agree with Kubernetes's, as NAME=PACKAGE@VERSION.
CHARTS=(
  helm=helm.sh/helm/v4/cmd/helm@v4.2.4
  kubeconform=github.com/yannh/kubeconform/cmd/kubeconform@v0.7.0
)
ADDONS=(
  coredns=github.com/coredns/coredns@v1.14.7
  local-path-provisioner=github.com/rancher/local-path-provisioner@v0.0.30
)

build_control_plane() { locked build_from_module "${CONTROL_PLANE[@]}"; }
build_charts() { locked install_pinned "${CHARTS[@]}"; }
build_all() {
  locked build_from_module "${CONTROL_PLANE[@]}" "${NODE[@]}"
  locked install_pinned "${CHARTS[@]}" "${ADDONS[@]}"
}

# Two builds at once would do the same work twice: the second waits and then finds it done.
locked() {
  command -v go >/dev/null || { echo "cluster: Go is missing; install Go 1.26 or newer (https://go.dev/dl)" >&2; exit 69; }
  mkdir -p "$STAMPS"
  (flock 9 && "$@") 9>"$CACHE/build.lock"
}

is_current() { # NAME STAMP
  [ -x "$BIN/$1" ] && [ "$(cat "$STAMPS/$1" 2>/dev/null)" = "$2" ]
}

# Moved into place whole, so that an interrupted build leaves no half of a program.
put_in_place() { # FILE NAME STAMP
  rm -f "$STAMPS/$2"
  mv -f "$1" "$BIN/$2"
  echo "$3" >"$STAMPS/$2"
}

build_from_module() { # NAME=PACKAGE...
  local stamp missing=() program
  stamp=$(sha256sum <"$HERE/go.mod" | cut -d' ' -f1)
  for program in "$@"; do is_current "${program%%=*}" "$stamp" || missing+=("$program"); done
  [ ${#missing[@]} -gt 0 ] || return 0

  local version minor out
  version=$(cd "$HERE" && go list -m -f '{{.Version}}' k8s.io/kubernetes)
  minor=$(cut -d. -f2 <<<"$version")
  out=$(mktemp -d "$CACHE/build.XXXXXX")
  echo "cluster: building ${missing[*]%%=*} (Kubernetes $version)"
  (cd "$HERE" && CGO_ENABLED=0 go build -trimpath -o "$out/" -ldflags "-s -w \
    -X k8s.io/component-base/version.gitVersion=$version \
    -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=$minor" "${missing[@]#*=}") \
    || { rm -rf "$out"; return 1; }
  # Go names a program after its package's last path element, and etcd's is "server".
  [ ! -e "$out/server" ] || mv "$out/server" "$out/etcd"
  for program in "${missing[@]}"; do put_in_place "$out/${program%%=*}" "${program%%=*}" "$stamp"; done
  rm -rf "$out"
}

install_pinned() { # NAME=PACKAGE@VERSION...
  local program name package out
  for program in "$@"; do
    name=${program%%=*} package=${program#*=}
    is_current "$name" "$package" && continue
    echo "cluster: building $package"
    out=$(mktemp -d "$CACHE/build.XXXXXX")
    # Static Go name resolution: a program linked statically with glibc's would crash in it.
    CGO_ENABLED=0 GOBIN="$out" go install -trimpath -ldflags "-s -w" "$package" || { rm -rf "$out"; return 1; }
    put_in_place "$out/$name" "$name" "$package"
    rm -rf "$out"
  done
}
