package access

import (
	"net/http"
	"net/netip"
	"time"
)

// Caller is who is asking, as far as it was checked. The zero Caller is nobody and may do nothing. It is a value and never modified.
type Caller struct {
	// Name is "anonymous", "user:ci", "robot:ci", "cert:CN=node" or "oidc:<issuer>:<subject>". What follows the kind was written by
	// whoever keeps the accounts, and by an issuer.
	Name string
	// Groups are those an issuer or a certificate puts the caller in, without "group:", in no order; nil for none.
	Groups []string
	// Address is the IP address of the other end of the connection, which may be a load balancer's; empty when it has none.
	Address string

	// narrow is what a token of ours leaves of the caller's rights; nil for all of them.
	narrow *narrowing
	// until is when what was shown stops counting, exclusive; zero for never.
	until time.Time
	// account is the mark of the account as it was when the credentials were compared, see [Control.account]; empty for other kinds.
	account string
}

// narrowing is what a token of ours was given for.
type narrowing struct {
	granted map[string]actionSet // by the full name of the repository
	// catalog says that all repositories may be listed that could be pulled without a token's limits.
	catalog bool
}

// IsZero reports whether c is nobody.
func (c Caller) IsZero() bool { return c.Name == "" }

// Anonymous reports whether c showed no credentials.
func (c Caller) Anonymous() bool { return c.Name == anonymous }

// known reports whether c is somebody.
func (c *Caller) known() bool { return c.Name != "" && c.Name != anonymous }

// address returns where r came from, by the connection and nothing a client can write: X-Forwarded-For and its kin can be sent by
// anybody.
func address(r *http.Request) netip.Addr {
	at, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	return at.Addr().Unmap().WithZone("")
}

// network returns what counts as one place: an IPv4 address, the /64 of an IPv6 one, which is what a single customer has at least.
func network(a netip.Addr) netip.Prefix {
	bits := 32
	if a.Is6() {
		bits = 64
	}
	p, err := a.Prefix(bits)
	if err != nil { // no address at all: all of those are one place
		return netip.Prefix{}
	}
	return p
}
