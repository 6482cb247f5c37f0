#!/bin/sh
# Checks this export; README tells what that proves. Needs sha256sum, od and the small programs beside them.
LC_ALL=C
export LC_ALL
cd "$(dirname "$0")" || exit 2
work=$(mktemp -d) || exit 2
trap 'rm -rf "$work"' EXIT
trap 'exit 2' HUP INT TERM
broken() {
  echo "BROKEN: $1"
  exit 1
}

# the files in receipts/ are those of SHA256SUMS, unchanged
: >"$work/sums"
[ ! -s SHA256SUMS ] || sha256sum receipts/* >"$work/sums"
diff SHA256SUMS "$work/sums" || broken 'a receipt was changed, added or left out'
[ "$(ls -A receipts | wc -l)" -eq "$(wc -l <SHA256SUMS)" ] || broken 'receipts/ holds what SHA256SUMS does not name'

# each names the one before, and is what receipts.jsonl says
read -r number before <anchor
case $number in '' | *[!0-9]*) broken 'anchor has no number' ;; esac
exec 3<receipts.jsonl 4>"$work/receipts" || exit 2
while read -r hash file; do
  number=$((number + 1))
  name=00000000000000000000$number
  name=${name#"${name%????????????????????}"}
  [ "$file" = "receipts/$name" ] || broken "$file is not number $number"
  set -- $(od -An -v -tx1 -N40 "$file")
  IFS=
  head="$*"
  unset IFS
  link=${head%????????????????}
  [ "$link" = "$before" ] || broken "$file does not follow the one before"
  [ $((0x${head#"$link"})) -eq "$number" ] || broken "$file is not number $number"
  json=$(tail -c +41 "$file")
  shown=null
  case $json in '{'*) shown=$json ;; esac
  IFS= read -r line <&3
  [ "$line" = "{\"number\":$number,\"hash\":\"$hash\",\"receipt\":$shown}" ] ||
    broken "receipts.jsonl has another receipt $number"
  case $json in '{'*'"sink":"'*) printf '%s\n' "$json" >&4 ;; esac
  before=$hash
done <SHA256SUMS
if IFS= read -r line <&3 || [ -n "$line" ]; then broken 'receipts.jsonl has more lines than there are receipts'; fi

# objects/ lists what the receipts name: "SINK HASH FILE", of both
grep -oE '"sink":"([^"\\]|\\.)*"' "$work/receipts" >"$work/sinks"
exec 3<"$work/sinks"
grep -oE '^\{|"(sha256|to)":"([^"\\]|\\.)*"' "$work/receipts" | while IFS= read -r part; do
  text=${part#*:\"}
  text=${text%\"}
  case $part in
  '{')
    IFS= read -r sink <&3
    sink=${sink#*:\"}
    sink=${sink%\"}
    plain=$sink
    case $sink in
    .* | *[!A-Za-z0-9._-]*) plain=$(printf %s "$sink" | tr -c 'A-Za-z0-9._-' _ | sed 's/^\./_/') ;;
    esac
    sha256= to=
    ;;
  '"sha256"'*) sha256=$text ;;
  *) to=$text ;;
  esac
  if [ -n "$sha256" ] && [ -n "$to" ]; then
    printf '%s %s %s\t%s\t%s\n' "$plain" "$sha256" "${to##*[/\\]}" "$to" "$sink"
    sha256= to=
  fi
done | sort -u | cut -f 1 | grep -E ' [0-9a-f]{64} [0-9]{20}-[0-9]{20}-[0-9a-fA-F]{16}\.[A-Za-z0-9._-]*$' |
  sort >"$work/named"
for list in objects/*; do
  [ -e "$list" ] || continue
  sink=${list#objects/}
  while IFS= read -r line || [ -n "$line" ]; do
    path=${line#*  }
    printf '%s %s %s\n' "${sink%%~*}" "${line%%  *}" "${path##*/}"
  done <"$list"
done | sort >"$work/listed"
comm -23 "$work/named" "$work/listed" | sed 's/^/only in a receipt: /' >"$work/differ"
comm -13 "$work/named" "$work/listed" | sed 's/^/only in objects: /' >>"$work/differ"
if [ -s "$work/differ" ]; then
  sed 10q "$work/differ"
  broken 'objects/ is not what the receipts name'
fi
more=$(grep -oE '"more_objects":[0-9]+' "$work/receipts" | cut -d : -f 2 | tr '\n' +)
[ -z "$more" ] || echo "$((${more}0)) more objects had no room in their receipts"
echo "whole up to receipt $number, head $before"
