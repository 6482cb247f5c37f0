module tidegate.invalid/toolchain

go 1.19

require golang.org/toolchain v0.0.1-go1.26.0.linux-amd64
