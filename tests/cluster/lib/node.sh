# The one node: containerd, kubelet, kube-proxy, cluster DNS and volumes; and what `up` and `down` do in which order.

RUN=/run/dc-cluster
SOCKET=$RUN/containerd.sock

containerd_ctl() { ctr -a "$SOCKET" -n k8s.io "$@"; }

# Everything that is missing at once, with the command that brings it.
check_machine() {
  local missing=() command_package
  for command_package in containerd:containerd ctr:containerd runc:runc /usr/lib/cni/bridge:containernetworking-plugins \
    iptables:iptables conntrack:conntrack /bin/busybox:busybox-static openssl:openssl ip:iproute2 sysctl:procps; do
    command -v "${command_package%%:*}" >/dev/null || missing+=("${command_package#*:}")
  done
  if [ ${#missing[@]} -gt 0 ]; then
    echo "cluster: this machine lacks programs. Run: apt-get install $(printf '%s\n' "${missing[@]}" | sort -u | xargs)" >&2
    return 69
  fi
  [ "$(id -u)" = 0 ] || { echo "cluster: a real kubelet needs root; run this as root" >&2; return 77; }
}

check_unused() {
  [ ! -e "$DIR/admin.kubeconfig" ] || { echo "cluster: one is already there in $DIR; run 'cluster down' first" >&2; return 75; }
  local port
  for port in "$API_PORT" "$ETCD_PORT" $((ETCD_PORT + 1)) 10250 20249; do
    ! (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || { echo "cluster: port $port is in use on this machine" >&2; return 75; }
  done
}

up() {
  check_machine
  build_all
  check_unused
  # From here on something has been made: a failure takes it all away again, but keeps the logs.
  trap 'echo "cluster: up failed" >&2; keep_logs; down' ERR
  set -E
  mkdir -p "$DIR"/{logs,images,volumes,kubelet} "$RUN"
  network_up
  certificates
  control_plane_up
  containerd_up
  node_up
  dns_up
  volumes_up
  still_running proxy controller-manager scheduler volumes
  kubectl_admin -n kube-system rollout status deployment/coredns --timeout=120s >/dev/null
  trap - ERR
  echo "cluster: up; eval \"\$($HERE/cluster env)\""
}

keep_logs() {
  rm -rf "$CACHE/last-logs"
  cp -r "$DIR/logs" "$CACHE/last-logs" 2>/dev/null || return 0
  echo "cluster: logs are kept in $CACHE/last-logs" >&2
}

# A bridge without ports swallows what has no Pod, so that no packet of the cluster's ranges leaves this machine.
network_up() {
  # Services are reached from Pods on the same bridge only where bridged packets pass iptables too.
  local settings=(net.ipv4.ip_forward net.bridge.bridge-nf-call-iptables) setting
  sysctl -e "${settings[@]}" 2>/dev/null | tr -d ' ' >"$DIR/sysctls"
  for setting in "${settings[@]}"; do sysctl -qew "$setting=1"; done
  ip link add dc-node0 type bridge 2>/dev/null || true
  ip addr replace "$NODE_IP/32" dev dc-node0
  ip link set dc-node0 up
  ip route replace 198.18.0.0/15 dev dc-node0 metric 4096
}

network_down() {
  [ ! -x "$BIN/kube-proxy" ] || "$BIN/kube-proxy" --cleanup >/dev/null 2>&1 || true
  # The one chain that kube-proxy's cleaning leaves, empty.
  local tables chain
  for tables in iptables ip6tables; do
    for chain in INPUT OUTPUT; do "$tables" -D "$chain" -j KUBE-FIREWALL 2>/dev/null || true; done
    "$tables" -X KUBE-FIREWALL 2>/dev/null || true
  done
  ip link del dc-pods0 2>/dev/null || true
  ip link del dc-node0 2>/dev/null || true
  local setting
  for setting in $(cat "$DIR/sysctls" 2>/dev/null); do sysctl -qw "$setting" || true; done
}

containerd_up() {
  mkdir -p "$DIR/cni/net.d"
  cat >"$DIR/cni/net.d/10-dc.conflist" <<JSON
{"cniVersion": "0.4.0", "name": "dc", "plugins": [{"type": "bridge", "bridge": "dc-pods0", "isGateway": true, "ipMasq": false, "hairpinMode": true,
  "ipam": {"type": "host-local", "dataDir": "$DIR/cni/addresses", "ranges": [[{"subnet": "198.18.0.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}}]}
JSON
  # An overlay cannot lie on an overlay, which is what the disk is inside another container.
  local snapshotter=overlayfs
  [ "$(stat -f -c %T "$DIR")" != overlayfs ] || snapshotter=native
  # restrict_oom_score_adj: inside another container a process may not lower its score, and runc would fail.
  cat >"$DIR/containerd.toml" <<TOML
version = 2
root = "$DIR/containerd"
state = "$RUN/containerd"
[grpc]
address = "$SOCKET"
[plugins."io.containerd.internal.v1.opt"]
path = "$DIR/containerd/opt"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "dc.local/pause:1"
restrict_oom_score_adj = true
netns_mounts_under_state_dir = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
conf_dir = "$DIR/cni/net.d"
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "$snapshotter"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
TOML
  start containerd containerd -c "$DIR/containerd.toml"
  wait_for containerd ctr -a "$SOCKET" version
  base_images
}

node_up() {
  echo "nameserver 127.0.0.1" >"$DIR/resolv.conf"
  cat >"$DIR/kubelet.yaml" <<YAML
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: $DIR/pki/ca.crt}}
authorization: {mode: Webhook}
tlsCertFile: $DIR/pki/kubelet.crt
tlsPrivateKeyFile: $DIR/pki/kubelet.key
cgroupDriver: cgroupfs
clusterDNS: [$DNS_SERVICE]
clusterDomain: cluster.local
containerRuntimeEndpoint: unix://$SOCKET
failSwapOn: false
makeIPTablesUtilChains: false
healthzPort: 0
resolvConf: $DIR/resolv.conf
evictionHard: {memory.available: 100Mi, nodefs.available: 1%}
imageGCHighThresholdPercent: 100
YAML
  start kubelet "$BIN/kubelet" --config="$DIR/kubelet.yaml" --kubeconfig="$DIR/kubelet.kubeconfig" --root-dir="$DIR/kubelet" \
    --node-ip="$NODE_IP" --hostname-override="$NODE_NAME"
  start proxy "$BIN/kube-proxy" --kubeconfig="$DIR/proxy.kubeconfig" --cluster-cidr="$POD_RANGE" --proxy-mode=iptables \
    --iptables-localhost-nodeports=false --healthz-bind-address= --metrics-bind-address=127.0.0.1:20249 \
    --conntrack-max-per-core=0 --conntrack-tcp-timeout-established=0 --conntrack-tcp-timeout-close-wait=0 --hostname-override="$NODE_NAME"
  wait_for kubelet kubectl_admin get node "$NODE_NAME"
  kubectl_admin wait --for=condition=Ready "node/$NODE_NAME" --timeout=120s >/dev/null
}

dns_up() { kubectl_admin apply -f "$HERE/manifests/dns.yaml" >/dev/null; }

# The provisioner runs beside the node, not in it; only the Pods that make and remove folders are real ones.
volumes_up() {
  cat >"$DIR/volumes.json" <<JSON
{"nodePathMap": [{"node": "DEFAULT_PATH_FOR_NON_LISTED_NODES", "paths": ["$DIR/volumes"]}]}
JSON
  kubectl_admin apply -f "$HERE/manifests/volumes.yaml" >/dev/null
  start volumes "$BIN/local-path-provisioner" start --kubeconfig "$DIR/admin.kubeconfig" --config "$DIR/volumes.json" \
    --namespace local-path-storage --configmap-name local-path-config --helper-image dc.local/busybox:1 \
    --helper-pod-file "$HERE/manifests/volume-helper.yaml"
}

# Safe to run at any time, also after a half-done `up`.
down() {
  trap - ERR
  stop kubelet
  containers_down
  local name
  for name in volumes proxy containerd; do stop $name; done
  control_plane_down
  network_down
  local mounted
  for mounted in $(awk '{print $2}' /proc/mounts | grep -E "^($DIR|$RUN)/" | sort -r); do umount -l "$mounted" || true; done
  # The kubelet leaves its groups; an rmdir takes only empty ones.
  find /sys/fs/cgroup -depth -type d -path '*/kubepods*' -exec rmdir {} \; 2>/dev/null || true
  rm -rf "$DIR" "$RUN"
}

containers_down() {
  [ -S "$SOCKET" ] || return 0
  local task
  for task in $(containerd_ctl tasks ls -q 2>/dev/null); do containerd_ctl tasks kill -s KILL "$task" >/dev/null 2>&1 || true; done
  for task in $(containerd_ctl tasks ls -q 2>/dev/null); do containerd_ctl tasks rm -f "$task" >/dev/null 2>&1 || true; done
  for task in $(containerd_ctl containers ls -q 2>/dev/null); do
    containerd_ctl containers rm "$task" >/dev/null 2>&1 || true
    # The network plugins' notes about a Pod that they were not asked to take down.
    rm -f /var/lib/cni/results/*-"$task"-*
  done
}
