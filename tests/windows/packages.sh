# Sourced: what building and trying the Windows program needs beyond tests/prepare.

# Installs what is missing, on Debian and its kin; elsewhere says what to install.
windows_packages() {
  local missing=() p
  for p in rustc-web cargo-web rust-web-src gcc-mingw-w64-x86-64 wine64 wine python3; do
    dpkg-query -W -f '${Status}' "$p" 2>/dev/null | grep -q 'ok installed' || missing+=("$p")
  done
  [ ${#missing[@]} -eq 0 ] && return 0
  local as_root=()
  [ "$(id -u)" = 0 ] || as_root=(sudo)
  if ! command -v apt-get >/dev/null || { [ "$(id -u)" != 0 ] && ! command -v sudo >/dev/null; }; then
    echo "error: install these first, they are missing here: ${missing[*]}" >&2
    exit 69
  fi
  echo "installing ${missing[*]}"
  "${as_root[@]}" apt-get update -qq
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}
