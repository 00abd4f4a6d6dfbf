# shellcheck shell=bash
# Processes by record: a file with id and start time, so that a later process with the same id is never taken for it.

started_at() { # ID: clock ticks since boot; fails where it has ended
  local stat
  stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 1
  stat=${stat##*) }
  [ "${stat%% *}" != Z ] || return 1
  cut -d' ' -f20 <<< "$stat"
}
id_of() { cut -d' ' -f1 "$1"; }
alive() { # RECORD
  local id start
  [ -s "$1" ] && read -r id start < "$1" && [ "$(started_at "$id")" = "$start" ]
}

detached() { # RECORD LOG CMD...
  local record=$1 log=$2
  shift 2
  setsid nohup "$@" >> "$log" 2>&1 < /dev/null 9>&- &
  echo "$! $(started_at $!)" > "$record"
}

end() { # RECORD
  ! alive "$1" || kill -9 "$(id_of "$1")"
  within 20 "process $(id_of "$1") of $1 to end" has_ended "$1"
  rm -f "$1"
}
has_ended() { ! alive "$1"; }

within() { # SECONDS WHAT CONDITION...
  local until=$((SECONDS + $1)) what=$2
  shift 2
  until "$@"; do
    [ "$SECONDS" -lt "$until" ] || fail "waited too long for $what"
    sleep 0.1
  done
}
