package cache

import (
	"context"
	"errors"
	"net"
	"net/url"
	"strconv"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

// clusterParameter tells the URL of a cluster from that of a server, and masterParameter that of sentinels.
const (
	clusterParameter = "cluster"
	masterParameter  = "master_name"
)

var (
	errURL        = errors.New("the redis url is malformed or has an unknown option")
	errSkipVerify = errors.New("the redis url has skip_verify, which is refused: give the server a certificate that verifies")
)

// parseDeployment returns what connects to the Redis, the sentinels or the cluster that a URL names:
//
//	redis://user:password@host:6379/0                                  rediss:// with TLS
//	unix:///run/redis.sock
//	redis://host:26379/0?master_name=main&addr=host2:26379&password=p  what is before the @ is for the sentinels
//	redis://user:password@host:6379?cluster=true&addr=host2:6379
//
// Its errors do not repeat what the library says of the URL, which may hold a password.
func parseDeployment(raw string, p patience) (connect func() redis.UniversalClient, err error) {
	u, err := url.Parse(raw)
	if err != nil {
		return nil, errURL
	}
	query := u.Query()
	cluster := query.Has(clusterParameter)
	if cluster {
		on, err := strconv.ParseBool(query.Get(clusterParameter))
		if err != nil || !on || query.Has(masterParameter) {
			return nil, errURL
		}
		query.Del(clusterParameter)
		u.RawQuery = query.Encode()
	}
	switch {
	case cluster:
		return clusterDeployment(u.String(), p)
	case query.Has(masterParameter):
		return sentinelDeployment(u.String(), p)
	}
	options, err := redis.ParseURL(raw)
	if err != nil {
		return nil, errURL
	}
	if options.TLSConfig != nil && options.TLSConfig.InsecureSkipVerify {
		return nil, errSkipVerify
	}
	options.DialTimeout, options.ReadTimeout, options.WriteTimeout, options.PoolTimeout = p.dial, p.answer, p.answer, p.answer
	options.ContextTimeoutEnabled = true
	options.MaxRetries = -1 // the breaker decides when to try again
	options.DialerRetries = 1
	options.Protocol = 2 // nothing is ever pushed at us that we did not subscribe to
	options.DisableIdentity = true
	options.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
	options.Dialer = guarded(redis.NewDialer(options), serverReplies)
	return func() redis.UniversalClient { return redis.NewClient(options) }, nil
}

// sentinelDeployment is for a master that sentinels know, and may replace.
func sentinelDeployment(raw string, p patience) (func() redis.UniversalClient, error) {
	options, err := redis.ParseFailoverURL(raw)
	if err != nil || options.MasterName == "" || options.RouteByLatency || options.RouteRandomly || options.ReplicaOnly {
		return nil, errURL // replicas may be behind, and a lease is taken in one place
	}
	if options.TLSConfig != nil && options.TLSConfig.InsecureSkipVerify {
		return nil, errSkipVerify
	}
	options.DialTimeout, options.ReadTimeout, options.WriteTimeout, options.PoolTimeout = p.dial, p.answer, p.answer, p.answer
	options.ContextTimeoutEnabled = true
	options.MaxRetries, options.DialerRetries = -1, 1
	options.Protocol = 2
	options.DisableIdentity = true
	options.Dialer = guarded(redis.NewDialer(&redis.Options{DialTimeout: p.dial, TLSConfig: options.TLSConfig}), nodeReplies)
	return func() redis.UniversalClient { return redis.NewFailoverClient(options) }, nil
}

// maxRedirects is how often a node of a cluster may name another one for a key that has moved.
const maxRedirects = 2

// clusterDeployment is for several masters that share the keys out.
func clusterDeployment(raw string, p patience) (func() redis.UniversalClient, error) {
	options, err := redis.ParseClusterURL(raw)
	if err != nil || options.ReadOnly || options.RouteByLatency || options.RouteRandomly {
		return nil, errURL
	}
	options.DialTimeout, options.ReadTimeout, options.WriteTimeout, options.PoolTimeout = p.dial, p.answer, p.answer, p.answer
	options.ContextTimeoutEnabled = true
	options.MaxRetries, options.DialerRetries, options.MaxRedirects = -1, 1, maxRedirects
	options.Protocol = 2
	options.DisableIdentity = true
	options.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
	options.Dialer = guarded(redis.NewDialer(&redis.Options{DialTimeout: p.dial, TLSConfig: options.TLSConfig}), nodeReplies)
	return func() redis.UniversalClient { return redis.NewClusterClient(options) }, nil
}

// guarded returns a dialer of connections whose replies are checked for size.
func guarded(dial func(context.Context, string, string) (net.Conn, error), b replyBounds) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return guard(conn, b), nil
	}
}
