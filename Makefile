# SPDX-License-Identifier: Apache-2.0
# `make run`, `make test`: see README.md. `make help` lists the rest.

BUILD ?= build
PREFIX ?= /usr/local
CC ?= gcc
VERSION := $(shell cat VERSION)
SAN ?=

include scripts/build.mk
