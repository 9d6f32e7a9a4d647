# etcd, kube-apiserver, kube-controller-manager and kube-scheduler, with certificates of their own.

POD_RANGE=198.18.0.0/16
SERVICE_RANGE=198.19.0.0/16
API_SERVICE=198.19.0.1
DNS_SERVICE=198.19.0.10
# On the bridge of node.sh, so that nothing depends on what the machine's own interfaces are called.
NODE_IP=198.18.255.254
NODE_NAME=dc-node
API_PORT=${CLUSTER_API_PORT:-16443}
ETCD_PORT=${CLUSTER_ETCD_PORT:-12379}

kubectl_admin() { "$BIN/kubectl" --kubeconfig "$DIR/admin.kubeconfig" "$@"; }

certificate() { # NAME SUBJECT [ALTERNATIVE NAMES]
  local at=$DIR/pki/$1
  openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout "$at.key" -out "$at.csr" -subj "$2" 2>/dev/null
  openssl x509 -req -in "$at.csr" -CA "$DIR/pki/ca.crt" -CAkey "$DIR/pki/ca.key" -CAcreateserial -days 30 -out "$at.crt" \
    -extfile <(echo "subjectAltName=${3:-DNS:$1}") 2>/dev/null
}

kubeconfig() { # NAME
  cat >"$DIR/$1.kubeconfig" <<YAML
apiVersion: v1
kind: Config
clusters: [{name: dc, cluster: {server: "https://127.0.0.1:$API_PORT", certificate-authority: $DIR/pki/ca.crt}}]
users: [{name: $1, user: {client-certificate: $DIR/pki/$1.crt, client-key: $DIR/pki/$1.key}}]
contexts: [{name: dc, context: {cluster: dc, user: $1}}]
current-context: dc
YAML
}

certificates() {
  mkdir -p "$DIR/pki"
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout "$DIR/pki/ca.key" -out "$DIR/pki/ca.crt" -subj /CN=dc-ca -days 30 2>/dev/null
  openssl genrsa -out "$DIR/pki/accounts.key" 2048 2>/dev/null
  openssl rsa -in "$DIR/pki/accounts.key" -pubout -out "$DIR/pki/accounts.pub" 2>/dev/null
  certificate apiserver /CN=kube-apiserver "DNS:localhost,DNS:kubernetes,DNS:kubernetes.default.svc,IP:127.0.0.1,IP:$API_SERVICE,IP:$NODE_IP"
  certificate admin /O=system:masters/CN=admin
  certificate controller-manager /CN=system:kube-controller-manager
  certificate scheduler /CN=system:kube-scheduler
  certificate proxy /CN=system:kube-proxy
  certificate kubelet "/O=system:nodes/CN=system:node:$NODE_NAME" "DNS:$NODE_NAME,IP:$NODE_IP"
  local name
  for name in admin controller-manager scheduler proxy kubelet; do kubeconfig $name; done
}

control_plane_up() {
  local peer_port=$((ETCD_PORT + 1))
  # The data does not outlive the cluster, so etcd need not wait for the disk.
  start etcd "$BIN/etcd" --data-dir "$DIR/etcd" --unsafe-no-fsync --log-level warn \
    --listen-client-urls "http://127.0.0.1:$ETCD_PORT" --advertise-client-urls "http://127.0.0.1:$ETCD_PORT" \
    --listen-peer-urls "http://127.0.0.1:$peer_port" --initial-advertise-peer-urls "http://127.0.0.1:$peer_port" \
    --initial-cluster "default=http://127.0.0.1:$peer_port"
  start apiserver "$BIN/kube-apiserver" --etcd-servers="http://127.0.0.1:$ETCD_PORT" --secure-port="$API_PORT" \
    --advertise-address="$NODE_IP" --client-ca-file="$DIR/pki/ca.crt" \
    --tls-cert-file="$DIR/pki/apiserver.crt" --tls-private-key-file="$DIR/pki/apiserver.key" \
    --service-account-key-file="$DIR/pki/accounts.pub" --service-account-signing-key-file="$DIR/pki/accounts.key" \
    --service-account-issuer=https://kubernetes.default.svc --service-cluster-ip-range="$SERVICE_RANGE" \
    --authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction,OwnerReferencesPermissionEnforcement \
    --kubelet-client-certificate="$DIR/pki/admin.crt" --kubelet-client-key="$DIR/pki/admin.key" \
    --kubelet-preferred-address-types=InternalIP
  wait_for apiserver kubectl_admin get --raw /readyz
  # Nothing asks these two for health or metrics; port 0 opens none, so that no other cluster on the machine is in the way.
  start controller-manager "$BIN/kube-controller-manager" --kubeconfig="$DIR/controller-manager.kubeconfig" --secure-port=0 \
    --service-account-private-key-file="$DIR/pki/accounts.key" --root-ca-file="$DIR/pki/ca.crt" --use-service-account-credentials=true \
    --cluster-cidr="$POD_RANGE" --allocate-node-cidrs=true --node-cidr-mask-size=24 --leader-elect=false \
    --cluster-signing-cert-file="$DIR/pki/ca.crt" --cluster-signing-key-file="$DIR/pki/ca.key"
  start scheduler "$BIN/kube-scheduler" --kubeconfig="$DIR/scheduler.kubeconfig" --secure-port=0 --leader-elect=false
}

control_plane_down() {
  local name
  for name in scheduler controller-manager apiserver etcd; do stop $name; done
}
