#!/usr/bin/env python3
"""Makes the labelled corpus that the scrubber is measured on.

    scrub_corpus.py [--seed 7] [--records 20000] [--forms all] [--out corpus.jsonl]

One JSON object a line: `text`, `spans` (each `start` and `end` in bytes of the
UTF-8 text, and `kind`), and `template`, the number of the form it came from.
The same seed and the same Faker give the same bytes. About half of the records
hold nothing personal; many of those are made to look as if they did.

What is labelled: e-mail addresses, payment cards that pass the Luhn check, user
names (in paths, accounts and log lines), SIDs of persons, secrets, unicast IP
and MAC addresses, phone numbers, host names of private networks, places.
Ambiguous forms are left out rather than labelled at will: ten bare digits are
a phone number only behind a key that says so.

Needs Faker (PyPI). Licence as the project's: MIT OR Apache-2.0.
"""

import argparse
import base64
import json
import re
import string
import sys
import urllib.parse

from faker import Faker

KINDS = ["secret", "email", "card", "sid", "user", "ip", "mac", "phone", "host", "gps"]


class Maker:
    """All random values, from one seed."""

    def __init__(self, seed):
        self.fake = Faker(["en_US", "en_GB", "de_DE", "fr_FR", "es_ES", "it_IT", "sv_SE", "pl_PL"])
        Faker.seed(seed)
        self.us = self.fake["en_US"]
        self.rng = self.us.random

    def pick(self, items):
        return self.rng.choice(items)

    def digits(self, n, first="123456789"):
        return self.pick(first) + "".join(self.pick(string.digits) for _ in range(n - 1))

    def text_of(self, alphabet, n):
        return "".join(self.pick(alphabet) for _ in range(n))

    def token_of(self, alphabet, n):
        # a token without a digit is a one in a million case for the lengths used
        while True:
            t = self.text_of(alphabet, n)
            if any(c.isdigit() for c in t) and any(c.isalpha() for c in t):
                return t

    # --- labelled ---------------------------------------------------------
    def email(self):
        kind = self.rng.random()
        name = self.ascii(self.fake.user_name())
        if kind < 0.5:
            return self.ascii(self.fake.email())
        if kind < 0.7:
            return f"{name}+{self.us.word()}@{self.us.domain_name(2)}"
        if kind < 0.85:
            return f"{self.ascii(self.us.first_name())}.{self.ascii(self.us.last_name())}@{self.us.domain_name()}"
        return f"{name}@{self.us.word()}.co.uk"

    def email_url(self):
        return self.email().replace("+", "").replace("@", "%40")

    def card(self):
        while True:
            c = self.us.credit_card_number()
            # shorter ones are account numbers of any kind
            if len(c) >= 13:
                return c

    def card_spaced(self):
        sep = self.pick([" ", "-"])
        while True:
            c = self.card()
            if len(c) == 16:
                return sep.join([c[:4], c[4:8], c[8:12], c[12:]])
            if len(c) == 15 and c[0] == "3":
                return sep.join([c[:4], c[4:10], c[10:]])

    def ascii(self, s):
        return s.encode("ascii", "ignore").decode() or "anna"

    def user(self):
        name = re.sub(r"[^a-z0-9._-]", "", self.ascii(self.fake.user_name()).lower())
        form = self.rng.random()
        if form < 0.6:
            return name
        first = re.sub("[^A-Za-z]", "", self.ascii(self.fake.first_name()))
        last = re.sub("[^A-Za-z]", "", self.ascii(self.fake.last_name()))
        if form < 0.8:
            return f"{first}.{last}".lower()
        return (first[:1] + last).lower()

    def user_windows(self):
        if self.rng.random() < 0.25:
            first = re.sub("[^A-Za-z]", "", self.ascii(self.fake.first_name()))
            last = re.sub("[^A-Za-z]", "", self.ascii(self.fake.last_name()))
            return f"{first} {last}"
        return self.user()

    def sid(self):
        n = lambda: self.rng.randrange(100000000, 4294967295)
        if self.rng.random() < 0.2:
            return f"S-1-12-1-{n()}-{n()}-{n()}-{n()}"
        return f"S-1-5-21-{n()}-{n()}-{n()}-{self.rng.randrange(500, 90000)}"

    def password(self):
        p = self.us.password(length=self.rng.randrange(8, 17), special_chars=self.rng.random() < 0.5)
        return re.sub("[&;,'\"<>\\\\ ]", "x", p)

    def password_url(self):
        return urllib.parse.quote(self.password(), safe="")

    def password_words(self):
        return f"{self.us.word()} {self.us.word()} {self.digits(2)}"

    def key64(self):
        return base64.b64encode(bytes(self.rng.randrange(256) for _ in range(64))).decode()

    def sas_sig(self):
        raw = base64.b64encode(bytes(self.rng.randrange(256) for _ in range(32))).decode()
        return urllib.parse.quote(raw, safe="")

    def jwt(self):
        b64 = lambda o: base64.urlsafe_b64encode(json.dumps(o).encode()).decode().rstrip("=")
        sig = self.text_of(string.ascii_letters + string.digits + "-_", 43)
        body = {"sub": self.digits(10), "exp": 1700000000 + self.rng.randrange(10**7)}
        return f"{b64({'alg': 'HS256', 'typ': 'JWT'})}.{b64(body)}.{sig}"

    def vendor_token(self):
        alnum = string.ascii_letters + string.digits
        return self.pick([
            lambda: "AKIA" + self.token_of(string.ascii_uppercase + "234567", 16),
            lambda: "ghp_" + self.token_of(alnum, 36),
            lambda: "gho_" + self.token_of(alnum, 36),
            lambda: "github_pat_" + self.token_of(alnum, 22) + "_" + self.token_of(alnum, 59),
            lambda: "glpat-" + self.token_of(alnum, 20),
            lambda: f"xoxb-{self.digits(12)}-{self.digits(13)}-{self.token_of(alnum, 24)}",
            lambda: "AIza" + self.token_of(alnum + "-_", 35),
            lambda: "sk_live_" + self.token_of(alnum, 24),
            lambda: "npm_" + self.token_of(alnum, 36),
            lambda: "SG." + self.token_of(alnum, 22) + "." + self.token_of(alnum, 43),
        ])()

    def hex_secret(self):
        return self.token_of("0123456789abcdef", self.pick([32, 40, 64]))

    def basic(self):
        return base64.b64encode(f"{self.user()}:{self.password()}".encode()).decode()

    def pem(self):
        body = "\n".join(self.text_of(string.ascii_letters + string.digits + "+/", 64) for _ in range(3))
        kind = self.pick(["RSA PRIVATE KEY", "PRIVATE KEY", "EC PRIVATE KEY", "OPENSSH PRIVATE KEY"])
        return f"-----BEGIN {kind}-----\n{body}\n-----END {kind}-----"

    def ip(self):
        form = self.rng.random()
        if form < 0.4:
            return self.us.ipv4_private()
        if form < 0.75:
            return self.us.ipv4_public()
        return self.ip6()

    def ip4(self):
        return self.us.ipv4_public() if self.rng.random() < 0.5 else self.us.ipv4_private()

    def ip6(self):
        h = lambda: f"{self.rng.randrange(1, 65536):x}"
        return self.pick([
            lambda: f"2001:db8:{h()}:{h()}:{h()}:{h()}:{h()}:{h()}",
            lambda: f"2a02:{h()}:{h()}::{h()}",
            lambda: f"fe80::{h()}:{h()}:{h()}:{h()}",
            lambda: f"fd{self.rng.randrange(16, 256):x}:{h()}:{h()}::{h()}",
            lambda: f"2001:db8::{h()}",
            lambda: f"::ffff:{self.us.ipv4_public()}",
        ])()

    def mac(self):
        m = self.us.mac_address()
        form = self.rng.random()
        if form < 0.45:
            return m
        if form < 0.7:
            return m.upper().replace(":", "-")
        if form < 0.85:
            return m.upper()
        h = m.replace(":", "")
        return f"{h[:4]}.{h[4:8]}.{h[8:]}"

    def mac_bare(self):
        while True:
            h = self.us.mac_address().replace(":", "").upper()
            if any(c.isalpha() for c in h):
                return h

    def phone(self):
        """A number that is told by its own form: a plus, or the groups of its country."""
        n = lambda k: self.digits(k, "23456789")
        return self.pick([
            lambda: f"+1 {n(3)} {n(3)} {n(4)}",
            lambda: f"+1-{n(3)}-{n(3)}-{n(4)}",
            lambda: f"+1{n(10)}",
            lambda: f"({n(3)}) {n(3)}-{n(4)}",
            lambda: f"({n(3)}){n(3)}-{n(4)}",
            lambda: f"{n(3)}-{n(3)}-{n(4)}",
            lambda: f"{n(3)}.{n(3)}.{n(4)}",
            lambda: f"1-{n(3)}-{n(3)}-{n(4)}",
            lambda: f"+44 20 {n(4)} {n(4)}",
            lambda: f"+44 7{n(3)} {n(6)}",
            lambda: f"020 {n(4)} {n(4)}",
            lambda: f"07{n(3)} {n(6)}",
            lambda: f"+49 {n(3)} {n(7)}",
            lambda: f"+49 (0) {n(3)} {n(6)}",
            lambda: f"+49(0){n(3)} {n(6)}",
            lambda: f"0{n(3)} {n(7)}",
            lambda: f"0{n(4)}/{n(5)}",
            lambda: f"+33 6 {n(2)} {n(2)} {n(2)} {n(2)}",
            lambda: f"06 {n(2)} {n(2)} {n(2)} {n(2)}",
            lambda: f"+34 6{n(2)} {n(3)} {n(3)}",
            lambda: f"+39 3{n(2)} {n(7)}",
            lambda: f"+46 70 {n(3)} {n(2)} {n(2)}",
            lambda: f"+48 {n(3)} {n(3)} {n(3)}",
            lambda: f"0049 {n(3)} {n(7)}",
        ])()

    def phone_any(self):
        """Any number that Faker makes, for behind a key."""
        return self.fake.phone_number()

    def host(self):
        w = re.sub("[^a-z]", "", self.us.word())
        n = self.rng.randrange(1, 99)
        part = self.pick(["db", "web", "sql", "build", "app", "dc", "file", "ws", "nas", "mail"])
        zone = self.pick(["corp", "local", "internal", "lan", "intranet", "corp.local", f"{w}.internal", f"{w}.local", "home.arpa"])
        return f"{part}-{n:02}.{zone}" if self.rng.random() < 0.6 else f"{part}{n}.{w}.{zone}"

    def host_windows(self):
        up = string.ascii_uppercase + string.digits
        return self.pick([
            lambda: "DESKTOP-" + self.text_of(up, 7),
            lambda: "LAPTOP-" + self.text_of(up, 8),
            lambda: "WIN-" + self.text_of(up, 11),
        ])()

    def host_short(self):
        part = self.pick(["db", "web", "sql", "build", "srv", "dc", "fs", "vm"])
        return f"{part}{self.rng.randrange(1, 99):02}" if self.rng.random() < 0.5 else f"{part}-{self.us.word()}-{self.rng.randrange(1, 9)}"

    def lat(self):
        return f"{self.rng.uniform(-89, 89):.{self.rng.randrange(4, 8)}f}"

    def lon(self):
        return f"{self.rng.uniform(-179, 179):.{self.rng.randrange(4, 8)}f}"

    def gps(self):
        return self.lat() + self.pick([", ", ",", " ", "; "]) + self.lon()

    def gps_tight(self):
        return f"{self.lat()},{self.lon()}"

    def gps_dms(self):
        r = self.rng.randrange
        return f"{r(1, 89)}°{r(10, 60)}'{r(10, 60)}.{r(10)}\"{self.pick('NS')} {r(1, 179)}°{r(10, 60)}'{r(10, 60)}.{r(10)}\"{self.pick('EW')}"

    def wkt(self):
        return f"{self.lon()} {self.lat()}"

    # --- not labelled -----------------------------------------------------
    def domain(self):
        return self.pick(["CONTOSO", "FABRIKAM", "NORTHWIND", "CORP", "EMEA", "AD01", "WOODGROVE"])

    def domain_low(self):
        return self.domain().lower()

    def guid(self):
        return self.us.uuid4()

    def sha(self):
        return self.us.sha256() if self.rng.random() < 0.5 else self.us.sha1()

    def md5(self):
        return self.us.md5()

    def ticks(self):
        return self.pick(["6383", "6384", "1334", "1335"]) + self.digits(14)

    def epoch(self):
        return self.pick([lambda: f"17{self.digits(8)}", lambda: f"17{self.digits(11)}", lambda: f"17{self.digits(17)}"])()

    def iso(self):
        return self.us.date_time_between("-3y").strftime(self.pick(["%Y-%m-%dT%H:%M:%S.%fZ", "%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S+01:00", "%d.%m.%Y %H:%M"]))

    def n(self):
        return str(self.rng.randrange(0, 100000))

    def big(self):
        return self.digits(self.rng.randrange(5, 13))

    def id16(self):
        # sixteen digits that no card has: the check digit is wrong
        while True:
            d = self.digits(16)
            s = sum(x if i % 2 == 0 else (x * 2 - 9 if x > 4 else x * 2) for i, x in enumerate(map(int, reversed(d))))
            if s % 10:
                return d

    def hex8(self):
        return f"0x{self.rng.randrange(1 << 32):08x}"

    def hex16(self):
        return f"0x{self.rng.randrange(1 << 64):016X}"

    def version(self):
        r = self.rng.randrange
        return self.pick([lambda: f"10.0.{r(17000, 27000)}.{r(1, 6000)}", lambda: f"{r(1, 20)}.{r(0, 20)}.{r(0, 30)}.{r(0, 9)}", lambda: f"{r(1, 9)}.{r(0, 20)}.{r(0, 99)}"])()

    def version4(self):
        r = self.rng.randrange
        return f"{r(1, 20)}.{r(0, 20)}.{r(0, 250)}.{r(0, 250)}"

    def oid(self):
        return f"1.3.6.1.4.1.{self.rng.randrange(300, 999)}.{self.rng.randrange(1, 60)}.{self.rng.randrange(1, 9)}"

    def wwn(self):
        return "50:" + ":".join(f"{self.rng.randrange(256):02x}" for _ in range(7))

    def fingerprint(self):
        return ":".join(f"{self.rng.randrange(256):02X}" for _ in range(20))

    def bytes_hex(self):
        return " ".join(f"{self.rng.randrange(256):02x}" for _ in range(12))

    def imei(self):
        return "35" + self.digits(13)

    def word(self):
        return self.us.word()

    def phrase(self):
        return " ".join(self.us.words(self.rng.randrange(3, 9)))

    def prog(self):
        return self.pick(["svchost.exe", "explorer.exe", "sshd", "sqlservr.exe", "dotnet", "node", "MsMpEng.exe", "wuauclt.exe", "systemd"])

    def dll(self):
        return self.pick(["ntdll.dll", "kernelbase.dll", "clr.dll", "storport.sys", "tcpip.sys", "libc.so.6", "win32kfull.sys"])

    def module(self):
        return self.pick(["System.Core", "Contoso.Data", "Microsoft.Extensions.Logging", "mscorlib", "Storage.Engine"])

    def site(self):
        return self.pick(["www.contoso.com", "learn.microsoft.com", "pypi.org", "example.com", "api.github.com"])

    def service_sid(self):
        return self.pick(["S-1-5-18", "S-1-5-19", "S-1-5-20", "S-1-5-32-544", "S-1-1-0", "S-1-16-12288", "S-1-5-80-956008885-3418522649-1831038044-1853292631-2271478464", "S-1-15-3-1024-1065365936-1281604716-3511738428-1654721687"])

    def float_(self):
        return f"{self.rng.uniform(0, 1000):.{self.rng.randrange(1, 7)}f}"

    def drive(self):
        return self.pick(["C:", "D:", "E:"])

    def ext(self):
        return self.pick(["log", "txt", "etl", "json", "docx", "pst", "ini"])


# «name» is made by the Maker; names in LABELS are labelled with their kind.
LABELS = {
    "email": "email", "email_url": "email",
    "card": "card", "card_spaced": "card",
    "user": "user", "user_windows": "user", "sid": "sid",
    "password": "secret", "password_url": "secret", "password_words": "secret", "key64": "secret",
    "sas_sig": "secret", "jwt": "secret", "vendor_token": "secret", "hex_secret": "secret",
    "basic": "secret", "pem": "secret",
    "ip": "ip", "ip4": "ip", "ip6": "ip", "mac": "mac", "mac_bare": "mac",
    "phone": "phone", "phone_any": "phone",
    "host": "host", "host_windows": "host", "host_short": "host",
    "lat": "gps", "lon": "gps", "gps": "gps", "gps_tight": "gps", "gps_dms": "gps", "wkt": "gps",
}

POSITIVE = {
    "email": [
        "Mail to «email» bounced with code «n»", "from=<«email»>, size=«n»", '{"contact":"«email»","attempt":«n»}',
        "GET /unsubscribe?address=«email_url»&list=«n» HTTP/1.1", "mailto:«email»", "Author: «word» <«email»>",
        "UserPrincipalName=«email»;tenant=«guid»", "To: «email», «email»", "account («email») locked after «n» tries",
        "smtp;«email» queued «guid»", "sync of «email»'s mailbox finished in «n» ms", "upn:«email»",
        "recipient \"«email»\" unknown.", "<mail>«email»</mail>", "SIP/2.0 sip:«email» 486 Busy",
        "OneDrive - «email» - Personal", "[«email»] token refreshed", "user_email='«email»'", "cn=«word»,mail=«email»,ou=staff",
    ],
    "card": [
        "payment with card «card» declined", "PAN=«card»;exp=12/27", '{"cardNumber":"«card»","cvv":null}',
        "charged «card_spaced» amount «float_» EUR", "cc: «card_spaced»", "card ending, full: «card»", "«card_spaced»",
        "order «n»: «card» authorised code «n»", "tokenise(«card»)", "<pan>«card»</pan>", "refund to «card_spaced».",
        "track2 «card»=2712", "customer typed \"«card_spaced»\" into search", "number:«card», brand:visa",
    ],
    "user": [
        "«drive»\\Users\\«user_windows»\\AppData\\Local\\Temp\\«guid».tmp", "Opened «drive»\\Users\\«user»\\Documents\\report.«ext»",
        "«drive»\\\\Users\\\\«user»\\\\Desktop\\\\notes.«ext»", "file:///C:/Users/«user»/Downloads/«word».«ext»",
        "\\\\?\\C:\\Users\\«user»\\NTUSER.DAT", "\\Device\\HarddiskVolume3\\Users\\«user»\\AppData\\Roaming\\«word»",
        "/home/«user»/.config/«word»/settings.json", "cd /home/«user» && make", "open(\"/Users/«user»/Library/Caches/«word»\") failed: 13",
        "/export/home/«user»/bin/«word»", "/var/home/«user»/.bashrc:«n»: not found", "C:\\Documents and Settings\\«user»\\Local Settings\\«word»",
        "/mnt/c/Users/«user»/source/repos/«word»", "/c/Users/«user»/go/bin", "file%3A%2F%2F%2Fhome%2F«user»%2F«word».txt",
        "Logon of «domain»\\«user» failed, status «hex8»", "Account: «domain»\\«user» process «prog»", "user «domain_low»\\«user» added to group Administrators",
        '{"account":"«domain»\\\\«user»","type":3}', "runas /user:«domain»\\«user» cmd", "User Name: «user» Logon Type: 3",
        "userName=«user»&action=login", '"username": "«user»"', "User Id=«user»;Trusted_Connection=no", "login=«user» result=ok",
        "Accepted publickey for «user» from «ip4» port «n» ssh2", "Failed password for invalid user «user» from «ip4» port «n»",
        "pam_unix(sshd:session): session opened for user «user» by (uid=0)", "sudo: «user» : TTY=pts/0 ; PWD=/tmp ; USER=root ; COMMAND=/bin/ls",
        "uid=1000(«user») gid=1000 groups=1000", "samAccountName: «user»", "TargetUserName=«user» TargetDomainName=«domain»",
        "<Data Name=\"SubjectUserName\">«user»</Data>", "owner: «user»", "for user '«user»' on database «word»", "profile of user \"«user»\" loaded",
        "~«user»/public_html/index.html", "USER=«user» HOME=/home/«user» SHELL=/bin/bash",
    ],
    "sid": [
        "SID «sid» mapped", "HKEY_USERS\\«sid»\\Software\\«word»", '{"userSid":"«sid»"}', "owner=«sid»;group=S-1-5-18",
        "\\REGISTRY\\USER\\«sid»_Classes", "(A;;FA;;;«sid»)", "token user: «sid», session «n»", "C:\\$Recycle.Bin\\«sid»\\$R«n»",
    ],
    "secret": [
        "password=«password»", 'Login {"user":"«user»","password":"«password»"}', "pwd: «password»", "Password = '«password_words»'",
        "Server=tcp:sql,1433;Database=«word»;Uid=«user»;Pwd=«password»;Encrypt=yes", "Data Source=«site»;Password=«password»;Timeout=«n»",
        "DefaultEndpointsProtocol=https;AccountName=st«n»;AccountKey=«key64»;EndpointSuffix=core.windows.net",
        "Endpoint=sb://«word».servicebus.windows.net/;SharedAccessKeyName=Root;SharedAccessKey=«key64»",
        "redis: cache:6380,password=«key64»,ssl=True,abortConnect=False", "https://acct.blob.core.windows.net/c/b?sv=2022-11-02&sp=r&sig=«sas_sig»",
        "Authorization: Bearer «jwt»", "authorization: Basic «basic»", "-H 'X-Api-Key: «hex_secret»'", "api_key=«hex_secret»",
        "token «vendor_token» revoked", "found «vendor_token» in commit «sha»", "GITHUB_TOKEN=«vendor_token»", "aws_secret_access_key = «key64»",
        "export DB_PASSWORD=«password»", "mysql --password=«password» -u app", "curl --token «hex_secret» «site»", "postgres://app:«password_url»@db/«word»",
        "amqp://svc:«password_url»@mq:5672/%2f", "<password>«password»</password>", "<add key=\"ClientSecret\" value=\"«hex_secret»\" />",
        "client_secret=«hex_secret»&grant_type=client_credentials", "Set-Cookie: sessionid=«hex_secret»; HttpOnly", "id_token=«jwt»",
        "refresh_token: «hex_secret»", "key file:\n«pem»\nread", "SECRET_KEY='«hex_secret»'", "passphrase: \"«password_words»\"",
        '{\\"access_token\\":\\"«jwt»\\",\\"expires_in\\":3600}', "?code=«n»&access_token=«hex_secret»", "sqlcmd -S srv -U sa -P «password»",
        "PGPASSWORD=«password» psql", "set password to \"«password»\"",
        "Proxy-Authorization: Basic «basic»", "encryptionKey=«key64»", "_auth=«basic»",
    ],
    "ip": [
        "Connection from «ip4»:«n» refused", "client=«ip» bytes=«n»", '{"remoteAddr":"«ip»"}', "route «ip4»/24 via «ip4»", "ping «ip» ttl=64",
        "[«ip6»]:443 handshake failed", "«ip4» - - [10/Oct/2024:13:55:36 +0000] \"GET / HTTP/1.1\" 200 «n»", "X-Forwarded-For: «ip4», «ip4»",
        "dst «ip», proto 6", "tcp «ip4»:«n» -> «ip4»:443 ESTABLISHED", "DNS server «ip» timed out.", "http://«ip4»:8080/health", "bind(«ip»)",
        "lease of «ip4» to interface eth0", "inet6 «ip6»/64 scope global", "from «ip6»%eth0", "(«ip4»)", "ip=«ip4»;port=«n»", "«ip4»",
        "Source Network Address: «ip» Source Port: «n»", "nameserver «ip»",
    ],
    "mac": [
        "link up on «mac»", "ether «mac» txqueuelen 1000", '{"mac":"«mac»","speed":«n»}', "ARP who-has, tell «mac»", "BSSID: «mac», signal -«n»",
        "adapter «mac» (Intel I219) state 2", "PhysicalAddress=«mac_bare»;Mtu=1500", "mac=«mac_bare»", "wlan0: authenticated with «mac».",
        "DHCPDISCOVER from «mac» via eth0", "station «mac» left",
    ],
    "phone": [
        "call «phone» now", "SMS to «phone» sent", '{"phone":"«phone_any»"}', "tel:«phone»", "Phone: «phone_any»", "callback number «phone», extension «n»",
        "fax=«phone_any»", "mobile: «phone_any»;", "2FA code sent to «phone».", "caller «phone» hung up after «n» s", "contact «word» («phone»)",
        "dialled «phone» duration «n»", "telephone=«phone_any»", "phoneNumber='«phone_any»'", "text from «phone»: hello",
    ],
    "host": [
        "connected to «host»", "«host»:1433 did not answer", "https://«host»/api/v2/«word»", "resolve(«host») = NXDOMAIN", "hostname=«host_short»",
        "ComputerName: «host_windows»", "Machine «host_windows» joined domain", "\\\\«host_short»\\share\\«word».«ext»", "\\\\«host»\\c$\\«word»",
        "workstation «host_windows» user unknown", '{"host":"«host_short»","pid":«n»}', "«host_windows»", "replication from «host» to «host» done",
        "Workstation Name: «host_windows»", "machineName='«host_short»'", "agent on «host_windows» reports «n» updates", "Server=«host»;Database=«word»",
        "ssh «host» uptime", "node «host» NotReady",
    ],
    "gps": [
        "position «gps»", "lat=«lat» lon=«lon»", '{"latitude":«lat»,"longitude":«lon»}', "geo:«gps_tight»", "at («gps») accuracy «n» m", "location=«gps_tight»;source=wifi",
        "lat: «lat», lng: «lon»", "maps?q=«gps_tight»", "https://maps.example/@«gps_tight»,17z", "taken at «gps_dms»", "POINT(«wkt»)", '{"lat":"«lat»","lng":"«lon»"}',
        "Latitude=«lat»;Longitude=«lon»;Altitude=«n»", "GPS fix «gps» sat=9",
    ],
}

NEGATIVE = [
    "Process «prog» (pid «n», tid «n») exited with code «hex8»", "Provider {«guid»} enabled with keyword «hex16»", "Activity «guid» related «guid» duration «n»",
    "Module «dll» version «version» loaded at «hex16»", "Faulting module «dll», version: «version», time stamp: «hex8»", "assembly «module», Version=«version4», Culture=neutral, PublicKeyToken=b77a5c561934e089",
    "Windows build «version» edition Professional", "driver «version4» installed", "firmware «version4» flashed on slot «n»", "package «module» «version4» restored", "update from v«version4» to v«version4»",
    "ProductVersion: «version4»", "FileVersion «version4»", "Chrome/1«n».0.0.0 Safari/537.36", "release «version4»-beta.«n»", "oid «oid» critical", "SNMP trap .«oid»",
    "hash «sha» verified", "md5=«md5» size=«big»", "ETag: \"«md5»\"", "sha256:«sha»", "image registry/app@sha256:«sha» pulled", "npm WARN lodash@4.17.«n» deprecated", "@types/node@18.11.«n»", "icon@2x.png missing", "sprite@3x.jpg «n» bytes",
    "getty@tty1.service: Succeeded.", "user@1000.service started", "Started openvpn@client.service", "@media screen and (max-width: «n»px)",
    "ticks «ticks»", "time=«ticks» delta=«big»", "timestamp «epoch»", "at «iso» took «n» ms", "[«iso»] «phrase»", "ts=«epoch» seq=«big»", "expires «iso»", "elapsed 00:0«n»:12.345678",
    "sequence «id16» acknowledged", "order id «id16» shipped", "serial «id16»", "correlation «big»-«big»-«big»", "IMEI «imei»", "handle «hex16» closed", "offset «big» length «big»", "counter «big» «big» «big»",
    "bytes «bytes_hex»", "WWN «wwn» on fabric A", "fingerprint «fingerprint»", "0000: «bytes_hex»", "matrix «float_», «float_», «float_»", "cpu «float_» mem «float_»", "latency p50=«float_» p99=«float_»", "load average: 0.52, 0.58, 0.59", "ratio «float_»:«float_»",
    "C:\\Windows\\System32\\drivers\\«dll»", "C:\\Program Files\\Contoso\\«word»\\bin\\«prog»", "C:\\Users\\Public\\Documents\\«word».«ext»", "C:\\ProgramData\\«word»\\logs\\«guid».etl", "/usr/lib/x86_64-linux-gnu/«dll»", "/var/log/«word»/«word».log", "/opt/«word»/bin/«word» --verbose", "/api/v1/users/«n»/orders", "GET /users/«n» 200", "https://«site»/users/list?page=«n»", "/home page rendered in «n» ms", "HKLM\\SOFTWARE\\Microsoft\\Windows\\CurrentVersion\\Run", "HKLM\\SYSTEM\\CurrentControlSet\\Services\\«word»", "\\Registry\\Machine\\Software\\Classes\\CLSID\\{«guid»}", "PCI\\VEN_8086&DEV_«n»", "USB\\VID_046D&PID_C52B\\«n»", "NT AUTHORITY\\SYSTEM", "NT SERVICE\\TrustedInstaller", "BUILTIN\\Administrators", "IIS APPPOOL\\DefaultAppPool", "ROOT\\CIMV2", "SQL\\MSSQL15", "bin\\Release\\net8.0\\«module».dll", "src\\«word»\\main.cpp(«n»): warning C4996",
    "account «service_sid» allowed", "D:(A;;GA;;;SY)(A;;GA;;;«service_sid»)", "password was changed", "password: required", "the token has expired", "invalid password for account type 3", "tokens: «n» used of «n»", "cancellationToken: none", "key=«n»", "Keywords=«hex16»", "primary key: id", "secret scanning finished, «n» findings", "passwordless sign-in enabled", "auth=none", "credential guard: running", "cookie jar cleared", "-----BEGIN CERTIFICATE----- omitted", "Bearer service started on node «n»", "user: unknown", "user logged off", "username is empty", "user mode driver framework «version»", "owner: system", "User-Agent: Mozilla/5.0 (Windows NT 10.0; Win64; x64)", "users: «n» active", "for user mode only", "login page served",
    "host unreachable", "hosts file read", "host: localhost", "www.«site» resolved", "https://«site»/docs/«word»", "computer restarted «n» times", "machine check exception «hex8»", "Server: nginx", "file config.local.json read", "settings.internal.xml", "std::vec::Vec<u8>::push", "ns::a::b::c", "a::b", "12:34:56", "ratio 16:9", "2:1:0", "port 8080:80", "range 100-200-300", "part number 12-3456-78", "«n»-«n»", "ISBN 978-3-16-148410-0", "temperature 21.5, humidity 40.2", "vector (0.123456, 0.234567, 0.345678)", "size 1920.000, 1080.000", "scale=1.250000", "progress 45.123 of 100.000", "lat test skipped", "long running task «n»", "altitude «n»", "phone service restarted", "call stack depth «n»", "number of retries: «n»", "call number «n» of «n»", "mobile device policy applied", "fax service disabled", "«phrase»", "«phrase» «phrase»", "worker «n» finished: «phrase»", "State changed from Running to Degraded, reason «phrase»", '{"event":"«word»","count":«n»,"ok":true,"id":"«guid»"}', "«word»=«n» «word»=«n» «word»=true", "INFO «module»: «phrase» (attempt «n»)", "line «n», column «n»: unexpected token '}'", "0x«md5»", "thumbprint=«sha»", "queue=«word» depth=«n» age=«float_»s", "SELECT * FROM «word» WHERE id = «n»", "error CS0103: The name '«word»' does not exist", "Boot: «n» drivers, «n» services, «float_» s", "Volume {«guid»} mounted as «drive»", "disk 0: 512110190592 bytes, model Samsung SSD 980", "adapter speed 1000000000 bps", "memory 34359738368 bytes in 2 slots", "battery «float_» %", "retry in «n» ms (jitter «float_»)",
]

# Written after the recognisers had been mended by the forms above, and measured
# before anything was mended by these: how the scrubber does on what it has not seen.
LATER = {
    "email": [
        "Invitation sent: attendee=«email»;role=REQ-PARTICIPANT", "imap-login: Login: user=<«email»>, method=PLAIN", "ldap bind uid=x failed for («email»)",
        "{\"to\":[\"«email»\",\"«email»\"]}", "commit by «word» «word» <«email»> at «iso»", "gpg: encrypted for «email»: key «hex8»", "X-Envelope-From:«email»", "CN=«word»/emailAddress=«email»",
    ],
    "card": [
        "{\"pan\": \"«card»\", \"scheme\": 2}", "INSERT INTO pay VALUES (1, '«card»', 20)", "stripe charge src=«card» status=402", "Visa «card_spaced» exp 04/29", "card_no=«card»|cvc=***", "POS swipe: B«card»^DOE/J^", "number on file is «card_spaced», please verify",
    ],
    "user": [
        "CreateFile C:\\Users\\«user»\\OneDrive\\Documents\\«word».docx -> 0xC0000043", "mkdir: cannot create directory '/home/«user»/.cache': Permission denied", "cwd=/Users/«user»/projects/«word», shell=zsh",
        "Event 4624: An account was successfully logged on. Account Name: «user» Account Domain: «domain»", "MSSQL login failed for user '«domain»\\«user»'. Reason: token", "cron[«n»]: («user») CMD (run-parts /etc)", "systemd-logind: New session «n» of user «user».",
        "su: (to root) «user» on pts/1", "postgres: role \"«user»\" does not exist", "C:\\Users\\«user»\\AppData\\Local\\CrashDumps\\«prog».«n».dmp", "crontab -u «user» -l", "\"loggedOnUser\":\"«domain»\\\\«user»\"", "runAs=«domain»\\«user», integrity=high", "chown «user»:staff /srv/«word»",
        "User «domain»\\«user» locked the workstation", "x-ms-client-principal-name: «user»", "python /home/«user»/app/main.py --port «n»", "HOMEPATH=\\Users\\«user»",
    ],
    "sid": ["Security ID: «sid» Account Name: -", "profile C:\\Users\\TEMP for «sid» unloaded", "icacls: *«sid»:(F)", "O:«sid»G:«sid»D:AI", "S-1-5-18 impersonates «sid»", "ProfileList\\«sid»\\ProfileImagePath"],
    "secret": [
        "connecting with {host: «host_short», password: «password»}", "dbPassword: \"«password»\"", "SMTP AUTH failed, password=\"«password»\"", "jdbc:mysql://db/«word»?user=«user»&password=«password_url»", "mongodb+srv://root:«password_url»@cluster0.example.net/«word»",
        "x-functions-key: «key64»", "Ocp-Apim-Subscription-Key: «hex_secret»", "InstrumentationKey=«guid»;ApiKey=«hex_secret»", "SharedAccessSignature sr=hub&sig=«sas_sig»&se=17«n»", "Cookie: .AspNetCore.Session=«key64»", "docker login -u «user» -p «password» reg", "vault kv put secret/db password=«password»",
        "ssh key:\n«pem»", "Bearer «jwt» rejected: expired", "git clone https://oauth2:«vendor_token»@gitlab.example/x.git", "AZURE_CLIENT_SECRET=«hex_secret»", "set PGPASSWORD=«password»", "Trying token «jwt»", "\"privateKey\": \"«hex_secret»\"", "webhook secret: «hex_secret»", "login ok; access-token=«hex_secret»; scope=all",
    ],
    "ip": ["Listening on «ip4», port «n»", "blocked inbound 6 «ip4»:«n» «ip4»:3389", "addr «ip6» scopeid 0x20", "A «ip4» AAAA «ip6»", "peer=(«ip4», «n»)", "nslookup: server «ip4»", "[client «ip4»:«n»] AH01630: denied", "route add 0.0.0.0 mask 0.0.0.0 «ip4»", "\"ipAddresses\":[\"«ip4»\",\"«ip6»\"]", "IP Address. . . . : «ip4»(Preferred)", "tcp://«ip4»:2375", "host «ip6» unreachable", "TLS error with «ip4»/443"],
    "mac": ["Physical Address. . . : «mac»", "lladdr «mac» REACHABLE", "Guest vNIC «mac» attached to switch", "\"macAddress\": \"«mac»\"", "wol magic packet → «mac»", "port 7: learned «mac» vlan «n»", "HWaddr «mac»", "bluetooth device «mac» paired"],
    "phone": ["Outgoing call to «phone», carrier x", "Tel. «phone»", "sms_to=«phone_any»", "reach me at «phone» after five", "\"mobilePhone\": \"«phone_any»\"", "contact: «phone»; «word»", "callerId=«phone»", "modem dialing «phone»...", "Fax: «phone_any»", "user entered «phone» as recovery number"],
    "host": ["Resolved «host» to cached entry", "kubelet «host»: node ready", "«host_windows»$ machine account password updated", "mount //«host»/share on /mnt", "Source Workstation: «host_windows»", "dns suffix search: «host»", "wmi query on \\\\«host_windows»\\root\\cimv2", "rpc to «host»(135) failed", "\"deviceName\":\"«host_windows»\"", "computer=«host_windows»;os=11", "hostName: «host_short», cores=«n»", "UNC \\\\«host_short»\\profiles$\\x"],
    "gps": ["{\"lat\": «lat», \"lon\": «lon», \"acc\": 12.5}", "loc:«gps_tight»", "coordinates [«gps»]", "lastLocation=(«gps»)", "lat «lat» long «lon»", "weather?lat=«lat»&lon=«lon»&units=metric", "geofence centre «gps» radius «n» m", "EXIF GPS: «gps_dms»"],
}
LATER_NEGATIVE = [
    "GC gen2 collected «big» bytes in «float_» ms, pause «float_»", "ETW session NT Kernel Logger lost «n» buffers", "HRESULT 0x80070005 from CoCreateInstance {«guid»}", "TraceLogging provider «module» registered, handle «hex16»", "service tag 7XK2M13 asset «big»", "KB5034«n» installed, revision «n»",
    "disk.IO read=«n» write=«n» queue=«float_»", "Schannel: TLS 1.3 cipher 0x1302 curve X25519", "cert serial 33:00:00:01:c4:22:b2:f7:9b:7d:ac:b2:ee:00:00", "uuid=«guid»,rev=«version»", "mem 0x7ffe«n»000-0x7fff«n»000 r-xp", "PID: «n» TID: «n» CPU: 3 IRQL: 2", "cache key user:profile:v2 hit ratio 0.973", "rate 1200.50/s burst 300.25/s", "schedule 2024-11-23 02:30:00 +0100 missed",
    "C:\\Windows\\WinSxS\\amd64_«word»_31bf3856ad364e35_10.0.19041.1_none_«md5»", "npm i @angular/core@17.3.«n»", "pip install requests==2.31.«n»", "ghcr.io/org/app:v1.«n».3", "Update KB5031«n» (OS Build 19045.«n»)", "invalid token at position «n»", "sign-in page secret rotation policy: 90 days", "Token type: Primary; elevation: 2", "Password expires in «n» days", "Account lockout threshold: «n»", "Login attempts: «n»", "user count: «n»", "Users\\Public", "host process for «word» stopped", "the host has «n» cores and «n» MB",
    "long: «n» short: «n»", "latency: 12.345 ms", "lat=12ms", "numbers: 555 1234 99", "scores 100-200-3000", "phone hub disabled", "cell B12 is empty", "mobile broadband state: 3", "call 0x«md5» returned", "mac OS 14.«n»", "macro expanded «n» times", "ether type 0x0800", "bssid unavailable", "Windows NT 10.0; Win64", "WIN-32 error 5", "DESKTOP-mode enabled", "ip fragmentation needed", "checksum «md5»  file.bin", "a=«float_» b=«float_» c=«float_»", "bounds: 12.345678, 23.456789, 34.567890", "INTERNAL error in «module»", "see /usr/share/doc/home/index.html", "S-1-15-2-1 capability check",
    "retry policy exponential(2.0, «n»)", "thread pool grew from «n» to «n»", "0 errors, «n» warnings, «n» notes",
]

PLACE = re.compile("«([a-z0-9_]+)»")


def fill(maker, template):
    """The text of a template and its labels in characters."""
    text, spans, done = "", [], 0
    for hole in PLACE.finditer(template):
        text += template[done:hole.start()]
        value = getattr(maker, hole.group(1))()
        if hole.group(1) in LABELS:
            spans.append([len(text), len(text) + len(value), LABELS[hole.group(1)]])
        text += value
        done = hole.end()
    return text + template[done:], spans


def records(seed, count, which="all"):
    """`count` records: dictionaries as written to the file."""
    maker = Maker(seed)
    first, later = which in ("all", "first"), which in ("all", "later")
    positive = {k: POSITIVE[k] * first + LATER[k] * later for k in KINDS}
    negative = NEGATIVE * first + LATER_NEGATIVE * later
    numbers = {t: n for n, t in enumerate([t for k in KINDS for t in positive[k]] + negative)}
    for _ in range(count):
        roll = maker.rng.random()
        if roll < 0.5:
            parts = [maker.pick(negative)]
        elif roll < 0.9:
            parts = [maker.pick(positive[maker.pick(KINDS)])]
        else:
            # two messages in one, as logs have them
            parts = [maker.pick(negative), maker.pick(positive[maker.pick(KINDS)])]
            maker.rng.shuffle(parts)
        text, spans = "", []
        for part in parts:
            if text:
                text += " | "
            more, labels = fill(maker, part)
            spans += [[s + len(text), e + len(text), k] for s, e, k in labels]
            text += more
        at = lambda n: len(text[:n].encode())
        yield {
            "text": text,
            "spans": [{"start": at(s), "end": at(e), "kind": k} for s, e, k in spans],
            "template": numbers[parts[0]] if len(parts) == 1 else -1,
        }


def main():
    args = argparse.ArgumentParser(description="Makes the labelled corpus of the scrubber.")
    args.add_argument("--seed", type=int, default=7)
    args.add_argument("--records", type=int, default=20000)
    args.add_argument("--forms", choices=["all", "first", "later"], default="all", help="which list of forms")
    args.add_argument("--out", default="-")
    args = args.parse_args()
    out = sys.stdout if args.out == "-" else open(args.out, "w", encoding="utf-8", newline="\n")
    for record in records(args.seed, args.records, args.forms):
        out.write(json.dumps(record, ensure_ascii=False) + "\n")
    out.flush()


if __name__ == "__main__":
    main()
