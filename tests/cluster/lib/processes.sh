# Long-running programs: each has a pid file with its start time, so that only a process of ours is ever ended, even after
# its number went to another.

started_at() { # PID → clock ticks since boot; the command's name before it may hold anything, so it is cut off
  sed 's/.*) //' "/proc/$1/stat" 2>/dev/null | cut -d' ' -f20
}

start() { # NAME COMMAND...
  local name=$1
  shift
  setsid nohup "$@" >"$DIR/logs/$name.log" 2>&1 </dev/null 9>&- &
  echo "$! $(started_at $!)" >"$DIR/$name.pid"
}

is_ours() { # PID STARTED
  [ -n "$2" ] && [ "$(started_at "$1")" = "$2" ]
}

stop() { # NAME
  local pid started
  [ -f "$DIR/$1.pid" ] || return 0
  read -r pid started <"$DIR/$1.pid" || true
  if is_ours "$pid" "$started"; then
    kill "$pid" 2>/dev/null || true
    for _ in $(seq 100); do is_ours "$pid" "$started" || break; sleep 0.1; done
    ! is_ours "$pid" "$started" || kill -9 "$pid" 2>/dev/null || true
  fi
  rm -f "$DIR/$1.pid"
}

# A program that nothing waits for may have refused its flags: better to say so than to let something else time out.
still_running() { # NAME...
  local name pid started
  for name in "$@"; do
    read -r pid started <"$DIR/$name.pid"
    is_ours "$pid" "$started" || { last_words "$name" "has ended"; return 1; }
  done
}

last_words() { # NAME WHAT
  echo "cluster: $1 $2; the end of $DIR/logs/$1.log:" >&2
  tail -n 15 "$DIR/logs/$1.log" >&2
}

# Fails early when the program has ended, and shows the end of its log either way.
wait_for() { # NAME COMMAND...: NAME is the program that must be alive meanwhile
  local name=$1 pid started
  shift
  read -r pid started <"$DIR/$name.pid"
  for _ in $(seq 300); do
    "$@" >/dev/null 2>&1 && return 0
    is_ours "$pid" "$started" || break
    sleep 0.2
  done
  last_words "$name" "did not come up"
  return 1
}
