# Sidekiq on Redis: its job, the worker's settings, and the tally for `run` that a worker keeps.

require "sidekiq"

class Tally
  def initialize(path)
    @pipe = File.open(path, "w")
    @pipe.sync = true
    @lock = Mutex.new
    @warm = @jobs = @began = @ended = 0
  end

  def ran(warm)
    @lock.synchronize do
      next @warm += 1 if warm

      now = Process.clock_gettime(Process::CLOCK_REALTIME, :microsecond)
      if @jobs.zero?
        @began = now
        @pipe.write("begun #{Process.pid}\n")
      end
      @jobs += 1
      @ended = now
    end
  end

  # Tells the tally as it grows.
  def tell
    Thread.new do
      last = nil
      loop do
        sleep 0.02
        line = @lock.synchronize { "tally #{Process.pid} #{@warm} #{@jobs} #{@began} #{@ended}\n" }
        @pipe.write(line) if line != last
        last = line
      end
    end
  end
end

class Noop
  include Sidekiq::Worker

  def perform(sort)
    TALLY.ran(sort == "warm")
  end
end

# Two lines of log for each job would be a part of the figures.
Sidekiq.logger.level = Logger::WARN

Sidekiq.configure_server do |config|
  TALLY = Tally.new(ENV.fetch("PEERS_PIPE"))
  config.on(:startup) { TALLY.tell }
end
